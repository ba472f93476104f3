"""How clients find an S3 server of the tests: one key for all servers."""

from __future__ import annotations

import fsspec


def environment_of(endpoint: str) -> dict[str, str]:
    """The variables that s3fs, polars and pyarrow read."""
    return {
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


def filesystem_at(endpoint: str) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem(
        "s3",
        key="testkey",
        secret="testsecret",
        endpoint_url=endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
