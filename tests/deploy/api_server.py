"""A stand-in for the API server of Kubernetes: it keeps what kubectl gives it, judged by the schemas. It runs no pod.

A Deployment is rolled out at once when everything that its containers read their settings from has been made before.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import kubernetes_validate  # type: ignore[import-untyped]  # it ships no types
from aiohttp import web

KINDS = {
    "v1": {"namespaces": "Namespace", "secrets": "Secret", "configmaps": "ConfigMap", "services": "Service"},
    "apps/v1": {"deployments": "Deployment"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy", "ingresses": "Ingress"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "keda.sh/v1alpha1": {"scaledobjects": "ScaledObject"},
    "monitoring.coreos.com/v1": {"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"},
}
"""What this cluster knows, operators' kinds too: group and version, plural, kind."""
_OF_OPERATORS = ("keda.sh/", "monitoring.coreos.com/")
Resource = dict[str, Any]


class Cluster:
    """What was made, by namespace, plural and name."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, str, str], Resource] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve the API; yield its URL."""
        app = web.Application()
        app.router.add_get("/{of:version|api|apis|openapi/v3}", _about)
        app.router.add_get("/openapi/v3/{of:.*}", _described)
        for version in KINDS:
            app.router.add_get(_path(version), _listed)
            app.router.add_route("*", _path(version) + "/{rest:.*}", self._answered)
        runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        namespace, plural, name = _place(request.match_info["rest"])
        if plural != "namespaces" and ("", "namespaces", namespace) not in self.made:
            return _refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        if request.method == "POST":
            return self._create(namespace, plural, _given(await request.read()))
        if not name:
            return await self._list(request, namespace, plural)
        found = self.made.get((namespace, plural, name))
        if found is None:
            return _refusal(404, "NotFound", f'{plural} "{name}" not found')
        if request.method == "PATCH":
            _merge(found, await request.json())
        return _json(found)

    def _create(self, namespace: str, plural: str, given: Resource) -> web.Response:
        if not given["apiVersion"].startswith(_OF_OPERATORS):
            try:
                kubernetes_validate.validate(given, kubernetes_validate.latest_version(), strict=True)
            except kubernetes_validate.ValidationError as error:
                return _refusal(422, "Invalid", str(error))
        place = (namespace, plural, given["metadata"]["name"])
        if place in self.made:
            return _refusal(409, "AlreadyExists", f'{plural} "{place[2]}" already exists')
        given["metadata"] |= {"uid": place[2], "resourceVersion": str(len(self.made) + 1), "generation": 1}
        if plural == "deployments":
            given["status"] = {"observedGeneration": 1} | self._rolled_out(namespace, given)
        self.made[place] = given
        return _json(given, 201)

    def _rolled_out(self, namespace: str, deployment: Resource) -> dict[str, int]:
        wanted = deployment["spec"].get("replicas", 1)
        missing = False
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            for source in container.get("envFrom", ()):
                missing |= ("configMapRef" in source) and (
                    (namespace, "configmaps", source["configMapRef"]["name"]) not in self.made
                )
            for variable in container.get("env", ()):
                if (key := variable.get("valueFrom", {}).get("secretKeyRef")) is not None:
                    secret = self.made.get((namespace, "secrets", key["name"]), {})
                    missing |= key["key"] not in secret.get("data", {})
        return {"replicas": wanted, "updatedReplicas": wanted, "availableReplicas": 0 if missing else wanted}

    async def _list(self, request: web.Request, namespace: str, plural: str) -> web.StreamResponse:
        if request.query.get("watch"):
            watched = web.StreamResponse(headers={"content-type": "application/json"})
            await watched.prepare(request)
            await asyncio.Event().wait()  # nothing changes here
        wanted = request.query.get("fieldSelector", "").partition("metadata.name=")[2]
        version, kind = next((v, kinds[plural]) for v, kinds in KINDS.items() if plural in kinds)
        items = [
            found for place, found in self.made.items() if place[:2] == (namespace, plural) and wanted in ("", place[2])
        ]
        return _json(
            {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items}
        )


def _given(body: bytes) -> Resource:
    """Return a resource that was sent as JSON, or as protobuf: a namespace or a secret, of which the names are read.

    Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
    """
    if not body.startswith(b"k8s\0"):
        return cast("Resource", json.loads(body))
    envelope = _fields(body[4:])
    version, kind = (_fields(envelope[1][0])[number][0].decode() for number in (1, 2))
    resource = _fields(envelope[2][0])
    about = _fields(resource[1][0])
    named = {name: about[number][0].decode() for number, name in ((1, "name"), (3, "namespace")) if about[number][0]}
    given: Resource = {"apiVersion": version, "kind": kind, "metadata": named}
    if kind == "Secret":
        entries = [_fields(entry) for entry in resource[2]]
        given["data"] = {entry[1][0].decode(): b64encode(entry[2][0]).decode() for entry in entries}
    return given


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """Return the fields of a protobuf message by number, those of variable length alone."""
    found: defaultdict[int, list[bytes]] = defaultdict(list)
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        size, at = _varint(message, at)
        if key & 7 == 2:
            found[key >> 3].append(message[at : at + size])
            at += size
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return value, at


def _json(answer: Any, status: int = 200) -> web.Response:
    return web.json_response(answer, status=status)


def _refusal(status: int, reason: str, message: str) -> web.Response:
    told = {"status": "Failure", "reason": reason, "message": message, "code": status}
    return _json({"kind": "Status", "apiVersion": "v1"} | told, status)


def _path(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _place(rest: str) -> tuple[str, str, str]:
    match rest.split("/"):
        case ["namespaces", namespace, plural, *name]:
            return namespace, plural, "".join(name)
        case [plural, *name]:
            return "", plural, "".join(name)
    raise web.HTTPNotFound


def _merge(found: Resource, news: Resource) -> None:
    for name, value in news.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            _merge(found[name], value)
        elif value is None:
            found.pop(name, None)
        else:
            found[name] = value


def _groups() -> Resource:
    versions = [version.split("/") for version in KINDS if "/" in version]
    named = [(group, {"groupVersion": f"{group}/{version}", "version": version}) for group, version in versions]
    groups = [{"name": group, "versions": [one], "preferredVersion": one} for group, one in named]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


async def _about(request: web.Request) -> web.Response:
    told = {
        "version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
        "api": {"kind": "APIVersions", "versions": ["v1"]},
        "apis": _groups(),
        "openapi/v3": {"paths": {_path(version)[1:]: _link(version) for version in KINDS}},
    }
    return _json(told[request.match_info["of"]])


async def _listed(request: web.Request) -> web.Response:
    version = request.path.removeprefix("/apis/").removeprefix("/api/")
    resources = [
        {
            "name": plural, "singularName": kind.lower(), "namespaced": kind != "Namespace", "kind": kind,
            "verbs": ["create", "get", "list", "patch", "watch"],
        }
        for plural, kind in KINDS[version].items()
    ]  # fmt: skip
    return _json({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})


def _link(version: str) -> dict[str, str]:
    return {"serverRelativeURL": f"/openapi/v3{_path(version)}"}


async def _described(request: web.Request) -> web.Response:
    """Say of each kind that the server looks at unknown fields itself, so that kubectl need not know the schemas."""
    version = request.match_info["of"].removeprefix("apis/").removeprefix("api/")
    group, _, number = version.rpartition("/")
    paths = {
        f"{_path(version)}/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
                "responses": {},
            }
        }
        for plural, kind in KINDS[version].items()
    }
    return _json({"openapi": "3.0.0", "info": {"title": "k", "version": "1"}, "paths": paths})
