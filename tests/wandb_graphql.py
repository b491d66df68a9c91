"""What the stand-in for W&B's server answers to GraphQL: one function for each question that clients ask."""

import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from wandb_server import StoredRun, WandbServer

Variables = dict[str, Any]
ENTITY = {"id": "ZW50", "name": "someone"}


def answer(server: "WandbServer", query: str, variables: Variables) -> dict[str, Any]:
    """The data that is asked for; nothing for what the stand-in does not know."""
    found = next((ask for name, ask in ANSWERS.items() if name in query), None)
    return found(server, variables) if found else {}


def viewer(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    teams = {"edges": []}
    who = {"id": "dQ==", "username": "someone", "entity": "someone", "teams": teams, "flags": "{}"}
    return {"viewer": who}


def upsert_run(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    inserted = variables.get("name") not in server.runs
    run = server.run(variables)
    run.facts |= {k: v for k, v in variables.items() if v is not None}
    project = {"id": "cHJv", "name": variables.get("project") or "lab", "entity": ENTITY}
    bucket = {"id": run.id, "name": run.id, "displayName": run.facts.get("displayName")}
    bucket |= {"project": project, "historyLineCount": len(run.history), "config": "{}"}
    return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}


def resume_status(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    known = server.runs.get(variables["name"])
    return {"model": {"id": "bW9k", "name": "lab", "entity": ENTITY, "bucket": known and _tail(known)}}


def _tail(run: "StoredRun") -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.id,
        "displayName": run.facts.get("displayName"),
        "historyLineCount": len(run.history),
        "eventsLineCount": 0,
        "logLineCount": 0,
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        "eventsTail": "[]",
        "summaryMetrics": json.dumps(run.summary),
        "config": run.facts.get("config") or "{}",
        "tags": run.facts.get("tags") or [],
        "wandbConfig": '{"t": 1}',
    }


def create_files(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    run = server.run(variables)
    files = [{"name": n, "uploadUrl": f"{server.url}/put/{run.id}/{n}"} for n in variables["files"]]
    return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}


def alert(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    server.alerts.append(variables)
    return {"notifyScriptableRunAlert": {"success": True}}


# --- runs, reports and workspaces of a project


def projects(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    names = {str(run.facts.get("project")) for run in server.runs.values()}
    nodes = [
        {"__typename": "Project", "id": "cHJv", "name": name, "entityName": variables["entity"]}
        | {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
        for name in sorted(names)
    ]
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {"models": {"pageInfo": page, "edges": [{"node": node} for node in nodes]}}


def project_id(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    known = {run.facts.get("project") for run in server.runs.values()}
    there = variables["projectName"] in known
    return {"project": {"id": "cHJv", "internalId": "cHJv"} if there else None}


def runs(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    """How many runs a project has that a filter by their names lets through."""
    mine = [run for run in server.runs.values() if run.facts.get("project") == variables["project"]]
    wanted = json.loads(variables.get("filters") or "{}").get("display_name", {}).get("$in")
    mine = [run for run in mine if wanted is None or run.facts.get("displayName") in wanted]
    page = {"endCursor": None, "hasNextPage": False}
    found = {"edges": [], "pageInfo": page}
    project = {"internalId": "1", "runCount": len(mine), "readOnly": False, "runs": found}
    return {"project": project}


def upsert_view(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    """A report, or a workspace: by its id where it is given, else a new one."""
    inserted = not variables.get("id")
    identity = variables.get("id") or f"view{len(server.views)}"
    server.views[identity] = view = {**variables, "id": identity}
    project = {"id": "cHJv", "name": variables["projectName"], "entityName": variables["entityName"]}
    shown = {key: view.get(key) for key in ("id", "type", "name", "displayName", "description", "spec")}
    return {"upsertView": {"view": {**shown, "project": project, "updatedAt": None}, "inserted": inserted}}


def all_views(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    wanted = {"projectName": variables["name"], "type": variables["viewType"], "name": variables["viewName"]}
    found = [view for view in server.views.values() if wanted.items() <= view.items()]
    keys = ("id", "displayName", "spec")
    edges = [{"node": {key: view[key] for key in keys}} for view in found]
    return {"project": {"allViews": {"edges": edges}}}


# --- artifacts: what has the digest of a version that is there already is that version


def create_artifact(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    asked = variables["input"]
    name = asked["artifactCollectionName"]
    versions = [old for old in server.artifacts if old["name"] == name]
    known = next((old for old in versions if old["digest"] == asked["digest"]), None)
    if known is None:
        known = {"id": f"artifact{len(server.artifacts)}", "name": name, "digest": asked["digest"]}
        known |= {"run": asked["runName"], "type": asked["artifactTypeName"], "files": {}, "state": "PENDING"}
        known["metadata"] = json.loads(asked.get("metadata") or "{}")
        server.artifacts.append(known)
    latest = {"latestArtifact": {"id": versions[-1]["id"]} if versions else None}
    artifact = {"id": known["id"], "state": known["state"], "artifactSequence": latest}
    return {"createArtifact": {"artifact": artifact}}


def create_manifest(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    url = f"{server.url}/artifact/{variables['artifactID']}/{variables['name']}"
    file = {"id": "bWFu", "uploadUrl": url, "uploadHeaders": []}
    return {"createArtifactManifest": {"artifactManifest": {"id": "bWFu", "file": file}}}


def create_artifact_files(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    def node(file: Variables) -> dict[str, Any]:
        identity, name = file["artifactID"], file["name"]
        url = f"{server.url}/artifact/{identity}/{name}"
        facts = {"storagePath": name, "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
        return {**facts, "artifact": {"id": identity}}

    edges = [{"node": node(file)} for file in variables["input"]["artifactFiles"]]
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def commit_artifact(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    (known,) = [one for one in server.artifacts if one["id"] == variables["artifactID"]]
    known["state"] = "COMMITTED"
    return {"commitArtifact": {"artifact": {"id": known["id"], "digest": known["digest"]}}}


def artifact_by_id(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    (known,) = [one for one in server.artifacts if one["id"] == variables["id"]]
    sequence = {"__typename": "ArtifactSequence", "name": known["name"], "project": None}
    facts = {"__typename": "Artifact", "artifactSequence": sequence, "versionIndex": 0, "tags": [], "size": 1}
    facts |= {"artifactType": {"name": known["type"]}, "description": None, "metadata": None, "fileCount": 1}
    facts |= {"ttlDurationSeconds": -1, "ttlIsInherited": True, "historyStep": None, "commitHash": None}
    facts |= {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "aliases": []}
    return {"artifact": {**facts, **{key: known[key] for key in ("id", "state", "digest")}}}


# --- sweeps: every combination of a grid, one after another


def upsert_sweep(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    name = f"sweep{len(server.sweeps)}"
    config = yaml.safe_load(variables["config"])
    choices = {key: given.get("values", [given.get("value")]) for key, given in config["parameters"].items()}
    left = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    server.sweeps[name] = {"config": variables["config"], "program": config["program"], "left": left}
    project = {"id": "cHJv", "name": variables["projectName"], "entity": ENTITY}
    return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}


def sweep(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    known = server.sweeps[variables["sweep"]]
    facts = {"id": variables["sweep"], "name": variables["sweep"], "method": "grid", "state": "RUNNING"}
    return {"project": {"sweep": {**facts, "config": known["config"], "runs": {"edges": []}}}}


def create_agent(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    return {"createAgent": {"agent": {"id": variables["sweep"]}}}


def heartbeat(server: "WandbServer", variables: Variables) -> dict[str, Any]:
    """The next run for an agent that has none."""
    known, commands = server.sweeps[variables["id"]], []
    if not json.loads(variables["runState"]):
        commands = [{"type": "exit"}]
        if known["left"]:
            arguments = {key: {"value": value} for key, value in known["left"].pop(0).items()}
            name = f"{variables['id']}-{len(known['left'])}"
            commands = [{"type": "run", "run_id": name, "program": known["program"], "args": arguments}]
    return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}


ANSWERS: dict[str, Callable[["WandbServer", Variables], dict[str, Any]]] = {
    "upsertBucket": upsert_run,
    "RunResumeStatus": resume_status,
    "createRunFiles": create_files,
    "notifyScriptableRunAlert": alert,
    "GetProjects": projects,
    "query ProjectInternalId(": project_id,
    "query Runs(": runs,
    "upsertView(": upsert_view,
    "allViews(": all_views,
    "mutation CreateArtifact ": create_artifact,
    "mutation CreateArtifactManifest": create_manifest,
    "mutation CreateArtifactFiles": create_artifact_files,
    "mutation CommitArtifact": commit_artifact,
    "query ArtifactByID": artifact_by_id,
    "mutation UpsertSweep(": upsert_sweep,
    "query SweepWithRuns(": sweep,
    "mutation CreateAgent(": create_agent,
    "mutation Heartbeat(": heartbeat,
    "query ArtifactType(": lambda server, variables: {"project": None},
    "viewer": viewer,
}
