"""The deployment files: every command line parses, and image, definition and manifests hold."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from support_deploy import (
    DEPLOY,
    PROJECT,
    ROOT,
    command_lines,
    documents,
    instructions,
    parse,
    sections,
    tool,
)

GATEWAY = DEPLOY / "kubernetes" / "gateway.yaml"
LINES = command_lines()


def test_command_lines_are_found_in_every_file() -> None:
    places = {place.split()[0] for place, _ in LINES}
    assert places == {
        "Dockerfile",
        "deploy.md",
        "gateway.yaml",
        "tls.conf",
        "xec-daq.service",
        "xec-serve.def",
        "xec-serve@.service",
        "xec-triton.service",
    }
    assert len(LINES) > 15


@pytest.mark.parametrize(("place", "words"), LINES, ids=lambda value: str(value)[:60])
def test_every_command_line_parses_with_the_real_command(place: str, words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize(
    "line",
    [
        "xec serve --lisen 127.0.0.1:1",
        "xec serve --sessions many",
        "xec daq --server 127.0.0.1:1",
        "xec health",
        "xec serve --engine tritn",
    ],
)
def test_a_command_line_that_is_wrong_would_be_seen(line: str) -> None:
    wrong = r"(?i)no such option|valid integer|missing|not one of"
    with pytest.raises(Exception, match=wrong):
        parse(line.split())


# -- the image ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    return instructions((DEPLOY / "Dockerfile").read_text())


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    hadolint = tool("hadolint")
    done = subprocess.run(
        [hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN cd /x && pip install numpy\nCMD xec serve\n")
    assert subprocess.run([hadolint, bad], capture_output=True, check=False).returncode == 1


def test_the_image_runs_as_a_number_that_is_not_root(dockerfile: list[tuple[str, str]]) -> None:
    words = [word for word, _ in dockerfile]
    (user,) = [rest for word, rest in dockerfile if word == "USER"]
    uid, gid = (int(number) for number in user.split(":"))
    assert uid >= 10000
    assert gid >= 10000
    assert words.index("USER") > len(words) - words[::-1].index("COPY") - 1
    assert "ADD" not in words


def test_signals_reach_the_server(dockerfile: list[tuple[str, str]]) -> None:
    found = dict(dockerfile)
    assert found["STOPSIGNAL"] == "SIGTERM"
    for word in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(found[word]), list)
    assert json.loads(found["ENTRYPOINT"])[:2] == ["xec", "serve"]


def base_of(dockerfile: list[tuple[str, str]]) -> str:
    (base,) = [rest for word, rest in dockerfile if word == "ARG" and rest.startswith("BASE=")]
    return base.removeprefix("BASE=")


def test_the_base_has_a_version_and_is_the_same_for_apptainer(
    dockerfile: list[tuple[str, str]],
) -> None:
    base = base_of(dockerfile)
    assert re.search(r"python:3\.11-slim-\w+$", base)
    assert {rest.split()[0] for word, rest in dockerfile if word == "FROM"} == {"${BASE}"}
    (apptainer,) = re.findall(r"^From: (\S+)$", (DEPLOY / "xec-serve.def").read_text(), re.M)
    assert base.endswith(f"/{apptainer}")


def sources_of_image(dockerfile: list[tuple[str, str]]) -> set[str]:
    copies = [rest.split()[:-1] for word, rest in dockerfile if word == "COPY"]
    return {name for names in copies for name in names if not names[0].startswith("--from")}


def test_the_image_is_made_of_what_the_wheel_needs(dockerfile: list[tuple[str, str]]) -> None:
    sources = sources_of_image(dockerfile)
    assert [name for name in sources if not (ROOT / name).exists()] == []
    text = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"wheel\]\npackages = \[(.*?)\]", text, re.DOTALL)
    assert packages is not None
    folders = {name.split("/")[0] for name in re.findall(r'"(\S+)"', packages[1])}
    files = {"LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
    assert sources == folders | files | {"model_repository"}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == sources
    definition = sections((DEPLOY / "xec-serve.def").read_text())["files"]
    assert {line.split()[0] for line in definition.splitlines() if line.strip()} == sources


def extras_in(text: str) -> set[str]:
    named = re.findall(r"EXTRA=([a-z,]+[a-z])", text)
    return {extra for found in named for extra in found.split(",")}


def test_extras_exist_and_bring_no_torch() -> None:
    files = (DEPLOY / "Dockerfile", DEPLOY / "xec-serve.def", GATEWAY, ROOT / "docs/deploy.md")
    extras = set().union(*(extras_in(path.read_text()) for path in files))
    assert {"server", "gpu", "triton"} <= extras
    known = PROJECT["optional-dependencies"]
    assert extras <= set(known)
    assert "torch" not in str([known[extra] for extra in extras])


def test_constraints_hold_for_every_installation(dockerfile: list[tuple[str, str]]) -> None:
    post = sections((DEPLOY / "xec-serve.def").read_text())["post"]
    runs = [rest for word, rest in dockerfile if word == "RUN"]
    for text in ("\n".join(runs), re.sub(r"\\\n\s*", " ", post)):
        installs = re.findall(r"pip [^\n&]*install [^\n&]*", text)
        assert len(installs) == 2
        assert all("--constraint constraints.txt" in line for line in installs)


def test_the_definition_installs_as_the_image_does(dockerfile: list[tuple[str, str]]) -> None:
    post = re.sub(r"\\\n\s*", " ", sections((DEPLOY / "xec-serve.def").read_text())["post"])
    for word, rest in dockerfile:
        if word == "RUN":
            for step in rest.split(" && "):
                wanted = " ".join(step.replace("${EXTRA}", "{{ EXTRA }}").split())
                assert wanted in [" ".join(line.split()) for line in post.splitlines()]


def test_shell_sections_of_the_definition_are_sound(tmp_path: Path) -> None:
    texts = sections((DEPLOY / "xec-serve.def").read_text())
    for name in ("post", "environment", "runscript", "test"):
        script = tmp_path / name
        script.write_text(texts[name])
        done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


# -- Kubernetes -----------------------------------------------------------------------------------


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents(GATEWAY) if document["kind"] == kind]


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    (deployment,) = of_kind("Deployment")
    return dict(deployment["spec"]["template"])


@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_manifests_follow_kubernetes_own_schemas(version: str) -> None:
    for document in documents(GATEWAY):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_would_be_seen() -> None:
    (document,) = of_kind("Deployment")
    document["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_everything_selects_the_pods_that_there_are(pod: dict[str, Any]) -> None:
    labels = pod["metadata"]["labels"]
    (deployment,), (service,) = of_kind("Deployment"), of_kind("Service")
    (budget,) = of_kind("PodDisruptionBudget")
    policy, _ = of_kind("NetworkPolicy")
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]


def test_ports_have_names_that_exist(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    names = {port["name"]: port["containerPort"] for port in container["ports"]}
    arguments = dict(a.removeprefix("--").split("=", 1) for a in container["args"] if "=" in a)
    assert arguments["listen"].endswith(f":{names['grpc']}")
    assert arguments["metrics"].endswith(f":{names['metrics']}")
    used = {p["targetPort"] for p in of_kind("Service")[0]["spec"]["ports"]}
    rules = of_kind("NetworkPolicy")[0]["spec"]["ingress"]
    used |= {port["port"] for rule in rules for port in rule["ports"]}
    assert used == set(names)


def test_a_server_has_time_to_drain(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    (grace,) = [float(a.partition("=")[2]) for a in container["args"] if "--grace" in a]
    before = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > before + grace + 5
    (deployment,) = of_kind("Deployment")
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_pod_is_locked(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    user = dict(instructions((DEPLOY / "Dockerfile").read_text()))["USER"].partition(":")[0]
    assert pod["spec"]["securityContext"]["runAsUser"] == int(user)
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_files_that_are_named_are_mounted_and_secrets_are_files(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["spec"]["volumes"]}
    paths = [a.partition("=")[2] for a in container["args"]]
    paths += [variable["value"] for variable in container["env"]]
    files = [Path(path) for path in paths if path.startswith("/")]
    assert len(files) == 5
    assert {str(path.parent) for path in files} == set(mounts.values())
    assert not any("valueFrom" in variable for variable in container["env"])
    assert "Secret" not in {document["kind"] for document in documents(GATEWAY)}


# -- SuperSONIC -----------------------------------------------------------------------------------

# The keys of the chart's values, 0.3.1, as far as ours may use them.
CHART = yaml.safe_load("""
nameOverride:
triton: [replicas, image, command, args, resources, modelRepository, annotations, nodeSelector,
  tolerations, affinity, service, readinessProbe, startupProbe]
envoy: [enabled, replicas, image, args, external_config, resources, annotations, nodeSelector,
  tolerations, service, ingress, grpc_route_timeout, rate_limiter, loadBalancerPolicy, auth]
keda: [enabled]
prometheus: [enabled, external]
grafana: [enabled]
""")


def unknown_keys(values: dict[str, Any]) -> set[str]:
    wrong = set(values) - set(CHART)
    for key, known in CHART.items():
        if known is not None:
            wrong |= {f"{key}.{name}" for name in set(values.get(key, {})) - set(known)}
    return wrong


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "supersonic" / "values.yaml").read_text()))


def test_values_name_keys_of_the_chart(values: dict[str, Any]) -> None:
    assert unknown_keys(values) == set()
    assert unknown_keys({"tritn": {}, "envoy": {"replica": 1}}) == {"tritn", "envoy.replica"}
    assert set(values["triton"]["modelRepository"]) == {
        "enabled",
        "mountPath",
        "storageType",
        "pvc",
    }


def test_triton_reads_our_repository_and_gets_signals(values: dict[str, Any]) -> None:
    triton = values["triton"]
    (script,) = triton["args"]
    assert "exec /opt/tritonserver/bin/tritonserver" in script
    assert f"--model-repository={triton['modelRepository']['mountPath']}" in script
    (flavour,) = re.findall(r"--model-config-name=(\w+)", script)
    assert (ROOT / "model_repository/reconstruct/configs" / f"{flavour}.pbtxt").is_file()
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert triton["image"].endswith("-py3")


def test_the_gateway_finds_the_charts_envoy(values: dict[str, Any], pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    assert f"--triton={values['nameOverride']}:8001" in container["args"]
    egress = of_kind("NetworkPolicy")[0]["spec"]["egress"][0]["to"][0]["podSelector"]
    assert egress["matchLabels"]["app.kubernetes.io/instance"] == values["nameOverride"]
