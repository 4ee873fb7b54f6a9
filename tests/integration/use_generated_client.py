"""Uses a client that was generated of the served OpenAPI, in the generator's own environment, without our packages.

Usage: python use_generated_client.py FOLDER URL, where FOLDER holds the package ``generated``. It prints ``done``.
"""

from __future__ import annotations

import importlib
import sys
from io import BytesIO
from typing import Any


def module(name: str) -> Any:
    """A module of the generated package, which is there only now."""
    return importlib.import_module(f"generated.{name}")


def main() -> None:
    """Puts, gets, compares and sets, scans, batches and transacts."""
    sys.path.insert(0, sys.argv[1])
    client = module("client").Client(base_url=sys.argv[2], timeout=30.0)
    file, models = module("types").File, module("models")
    put, get, delete = module("api.keys.put_key"), module("api.keys.get_key"), module("api.keys.delete_key")
    key = "{generated}/é 1?"

    created = put.sync_detailed(
        key, client=client, body=file(payload=BytesIO(b"one")), if_none_match=models.PutKeyIfNoneMatch.VALUE_0
    )
    assert created.status_code == 200, created
    again = put.sync_detailed(
        key, client=client, body=file(payload=BytesIO(b"two")), if_none_match=models.PutKeyIfNoneMatch.VALUE_0
    )
    assert (again.status_code, again.parsed.code) == (412, "precondition_failed")
    assert again.parsed.current_revision == created.parsed.revision
    etag = created.headers["etag"]
    swapped = put.sync_detailed(key, client=client, body=file(payload=BytesIO(b"two")), if_match=etag)
    assert swapped.status_code == 200, swapped
    lost = put.sync_detailed(key, client=client, body=file(payload=BytesIO(b"three")), if_match=etag)
    assert lost.status_code == 412, lost
    assert get.sync(key, client=client).payload.read() == b"two"
    assert get.sync("{generated}/none", client=client).code == "not_found"

    operation = models.OperationRequest
    batch = module("api.keys.batch").sync(
        client=client,
        body=models.BatchRequest(
            operations=[
                operation(op=models.OperationRequestOp.PUT, key=f"{{generated}}/{number}", value=str(number))
                for number in range(3)
            ]
            + [operation(op=models.OperationRequestOp.GET, key="{generated}/none")]
        ),
    )
    assert [each.status for each in batch.results] == [200, 200, 200, 404], batch

    page = module("api.keys.get_range").sync(client=client, prefix="{generated}/", limit=2)
    assert [item["key"] for item in page.items] == ["{generated}/0", "{generated}/1"]
    assert page.next_cursor and not page.complete
    rest = module("api.keys.get_range").sync(client=client, prefix="{generated}/", cursor=page.next_cursor)
    assert [item["key"] for item in rest.items] == ["{generated}/2", key]
    assert rest.complete

    transact = module("api.keys.transact").sync(
        client=client,
        body=models.TxnRequest(
            compare=[models.CompareRequest(key=key, value="two")],
            success=[operation(op=models.OperationRequestOp.PUT, key=key, value="three")],
            failure=[operation(op=models.OperationRequestOp.GET, key=key)],
        ),
    )
    assert transact.succeeded, transact
    counted = module("api.keys.increment_key").sync(
        "{generated}/count", client=client, body=models.IncrementRequest(by=5)
    )
    assert counted.value == "5"
    gone = delete.sync_detailed(key, client=client)
    assert gone.status_code == 204, gone
    assert get.sync(key, client=client).code == "not_found"
    print("done")


if __name__ == "__main__":
    main()
