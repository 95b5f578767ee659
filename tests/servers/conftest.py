"""Deployments that tests may look at; those that break one start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.servers.deployments import Cluster, Watched


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """Return a primary, a replica and three Sentinels."""
    async with Watched(tmp_path_factory.mktemp("watched")) as deployment:
        yield deployment


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Return a Cluster of three primaries and three replicas."""
    async with Cluster(tmp_path_factory.mktemp("cluster")) as deployment:
        for node in deployment.nodes:  # nobody is to fail over here, however busy the machine is
            await node.redis.config_set("cluster-node-timeout", 60_000)
        yield deployment
