"""The examples for clusters, without a cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from googlenet.cli.options import app

CLUSTERS = Path(__file__).parents[1] / "examples" / "clusters"
STUBS = {
    "scontrol": 'if [ "$1" = show ]; then echo host-1; echo host-2; else echo "$@" > requeued; fi',
    "srun": 'while [ "$1" != torchrun ]; do shift; done; exec "$@"',
    "torchrun": 'printf "%s\\n" "$@" > .launched; mv .launched launched; trap "exit 75" TERM; sleep 30 & wait',
}


def parse(words: list[str]) -> Any:
    """What torchrun understands; the command that it starts must be one of this package."""
    arguments = get_args_parser().parse_args(words)
    assert (arguments.module, arguments.training_script) == (True, "googlenet")
    app.parse_args(arguments.training_script_args, exit_on_error=False, print_error=False)
    return arguments


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_slurm_starts_torchrun_and_queues_the_job_again(tmp_path: Path) -> None:
    for name, body in STUBS.items():
        stub = tmp_path / name
        stub.write_text(f"#!/bin/bash\n{body}\n")
        stub.chmod(0o755)
    slurm = {"JOB_NODELIST": "host-[1-2]", "JOB_NUM_NODES": "2", "GPUS_ON_NODE": "8", "JOB_ID": "77"}
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {f"SLURM_{name}": value for name, value in slurm.items()}
    command = ["bash", str(CLUSTERS / "slurm.sh"), "--data", "two words"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True) as script:
        try:
            while not (tmp_path / "launched").exists():
                assert script.poll() is None
                time.sleep(0.02)
            os.kill(script.pid, signal.SIGTERM)  # as Slurm does, before the time is over
            assert script.wait(timeout=20) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
    arguments = parse((tmp_path / "launched").read_text().splitlines())
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.rdzv_id) == ("2", "8", "77")
    assert arguments.rdzv_endpoint == "host-1:29400" and arguments.max_restarts == 3
    assert "two words" in arguments.training_script_args
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "77"]


def test_kubernetes_starts_torchrun() -> None:
    job = yaml.safe_load((CLUSTERS / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    policy, worker = job["spec"]["elasticPolicy"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert policy["minReplicas"] <= worker["replicas"] <= policy["maxReplicas"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][1:3] == ["-m", "torch.distributed.run"]
    arguments = parse(container["command"][3:])
    assert int(arguments.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    # What is written must outlive the pod
    assert f"--output={mounts['training']}/" in " ".join(arguments.training_script_args)


def test_ray_compiles() -> None:
    compile((CLUSTERS / "ray_train.py").read_text(), "ray_train.py", "exec")
