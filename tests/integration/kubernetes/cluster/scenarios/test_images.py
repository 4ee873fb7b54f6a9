"""The images are small, say what they are, and run as the chart's own test says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from integration.kubernetes.cluster import podman
from tools.helm_chart import CHART
from tools.rendering import render
from tools.version import one_version

# Facades and nodes check signatures of JWTs: of each image the package `cryptography` is 13.
LIMITS_MB = {"raft-node": 240, "facade": 280}


@pytest.mark.parametrize("name", LIMITS_MB)
def test_an_image_is_small_and_says_what_it_is(
    name: str, kind: str, images: None, figure: Callable[[str], None]
) -> None:
    if kind != "podman":
        pytest.skip("images are looked at where podman has built them")
    image = podman.image(f"docker.io/dougdb/{name}:{one_version()}")
    figure(f"image {name}: {image['Size'] / 1e6:.0f} MB")
    assert image["Size"] < LIMITS_MB[name] * 1_000_000
    assert image["Config"]["User"] == "10001:10001"
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == one_version()
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_chart_names_these_images(tools: None) -> None:
    """What is measured above is what is run."""
    names = {
        one["spec"]["template"]["spec"]["containers"][0]["image"]
        for one in render("--values", str(CHART / "values-kind.yaml"))
        if one["kind"] in ("StatefulSet", "Deployment")
    }
    assert names == {f"docker.io/dougdb/{name}:{one_version()}" for name in LIMITS_MB}
