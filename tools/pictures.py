"""Makes the pictures of the console in docs/images, from a real cluster with a load on it, so that they stay true.

``make pictures`` runs it. It needs Debian's chromium, and playwright (``make browser-tools``).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.cluster import Cluster
from bench.http11 import HttpError

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs/images"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1280, "height": 860}
LOAD_S = 30.0
VIEWS = {
    "console-cluster": ("", "light"),
    "console-shard": ("#/shard/0", "dark"),
    "console-keys": ("#/keys?prefix=shop%2F&key=shop%2Forders%2F0042", "light"),
    "console-timeline": ("#/timeline?shard=0", "dark"),
    "console-slots": ("#/slots", "light"),
    "console-graphs": ("#/graphs", "light"),
    "console-try": ("#/try", "light"),
}


def fill(cluster: Cluster) -> None:
    """Puts keys and values as a shop might have them."""
    lines = []
    for number in range(200):
        order = {"id": number, "customer": f"c{number % 17}", "items": [{"sku": f"A{number % 9}", "count": 2}]}
        content = {"content_type": "application/json", "value": json.dumps(order)}
        lines.append(json.dumps({"op": "put", "key": f"shop/orders/{number:04}", **content}))
        lines.append(json.dumps({"op": "put", "key": f"shop/customers/c{number % 17}", "value": f"Customer {number}"}))
    cluster.request("POST", "/v1/batch", "\n".join(lines).encode(), {"content-type": "application/x-ndjson"})


@contextlib.contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Writes as fast as one client can, for the time of the block."""
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            with contextlib.suppress(HttpError, OSError):
                cluster.request("PUT", f"/v1/kv/load/{number % 500}", b"v" * 200)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main() -> int:
    """Makes all pictures."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        print("pictures: there is no Chromium (Debian: chromium)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), shards=2, nodes=5)
        try:
            cluster.start()
            fill(cluster)
            with load(cluster), importlib.import_module("playwright.sync_api").sync_playwright() as playwright:
                time.sleep(LOAD_S / 2)
                cluster.kill(cluster.await_leader("0").id)
                time.sleep(LOAD_S / 2)
                browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
                for name, (place, scheme) in VIEWS.items():
                    page = browser.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
                    page.goto(f"{cluster.url}/ui/{place}")
                    page.wait_for_selector("main h1")
                    if name == "console-slots":
                        page.select_option("select", "rate")
                        page.fill("label:has-text('Slot of key') input", "shop/orders/0042")
                        page.click("button:text-is('Find')")
                    if name == "console-try":
                        page.click("button:text-is('Put')")
                    page.wait_for_timeout(2500)
                    # What happened just now is told over what is to be seen.
                    page.eval_on_selector_all(".note button", "(all) => all.forEach((each) => each.click())")
                    page.wait_for_timeout(100)
                    # What the last step offers is at the end of the page.
                    page.screenshot(path=IMAGES / f"{name}.png", full_page=name == "console-try")
                    print(f"docs/images/{name}.png")
                    page.close()
                browser.close()
        finally:
            cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
