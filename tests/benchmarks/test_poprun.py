"""poprun's command line: Graphcore's own commands pass, what poprun or the machine would refuse does not."""

import shlex

import pytest

from benchmarks import poprun

# Option by option as in the benchmarks, scripts and READMEs of graphcore/examples; programs cut short.
ACCEPTED = {
    "popdist tutorial": ("poprun --num-instances=2 --num-replicas=4 python3 popdist_training.py --epochs=10", 2, 4),
    "popdist inference": ("poprun --num-instances=4 --num-replicas=4 python3 popdist_inference.py", 4, 4),
    "popdist test": ("poprun --mpi-global-args --tag-output --num-replicas 4 --num-instances 2 python3 x.py", 2, 4),
    "unet test": ("poprun --only-output-from-instance 0 --num-instances 2 --num-replicas 2 python3 main.py", 2, 2),
    "resnet50 pod16": ("poprun --num-instances=8 --num-replicas=16 python3 train.py --config resnet50", 8, 16),
    "efficientnet pod16": (
        "poprun --num-instances=4 --num-replicas=8 --ipus-per-replica=2 python3 train.py --half-res-training",
        4,
        16,
    ),
    "resnet50 inference pod4": (
        'poprun -vv --mpi-local-args="-x POPLAR_RUNTIME_OPTIONS -x POPLAR_ENGINE_OPTIONS" --num-instances=2 '
        "--num-replicas=4 --remove-partition=no --update-partition=no --reset-partition=no python3 run_benchmark.py",
        2,
        4,
    ),
    "vit validation pod4": (
        "poprun --vv --num-instances 1 --num-replicas 1 --ipus-per-replica=4 --executable-cache-path $PYTORCH_CACHE_DIR"
        " --vipu-server-host=$VIPU_CLI_API_HOST --vipu-partition=$IPUOF_VIPU_API_PARTITION_ID "
        "--vipu-allocation=$VIPU_ALLOCATION_ID --update-partition=yes --remove-partition=yes --reset-partition=no "
        "python validation.py",
        1,
        4,
    ),
    "resnet50 one host pod64": (
        "poprun --vv --num-instances 16 --num-replicas 64 --sync-type=ST_POD_NATIVE_DEFAULT --vipu-server-port 8090 "
        "--vipu-server-host $IPUOF_VIPU_API_HOST --vipu-partition=$IPUOF_VIPU_API_PARTITION_ID python3 train.py",
        16,
        64,
    ),
    "mlperf resnet50 pod64": (
        "poprun -vv --host 10.1.1.1,10.1.1.2,10.1.1.3,10.1.1.4 --mpi-global-args='--tag-output --allow-run-as-root "
        "--mca oob_tcp_if_include 10.1.1.0/24 --mca btl_tcp_if_include 10.1.1.0/24' --mpi-local-args=' -x OPAL_PREFIX "
        "-x LD_LIBRARY_PATH -x IPUOF_VIPU_API_TIMEOUT=600' --update-partition=no --reset-partition=yes "
        "--vipu-server-timeout 300 --ipus-per-replica 1 --numa-aware 1 --only-output-from-instance 0 "
        "--vipu-server-host 10.1.1.9 --vipu-partition=pod64 --num-instances 32 --num-replicas 64 python train.py",
        32,
        64,
    ),
    "vit pod64": (
        "poprun --host $HOSTS --vv --reset-partition=no --num-ilds=8 --mpi-global-args='--output-filename output "
        "--mca oob_tcp_if_include eno1 --mca btl_tcp_if_include eno2' --vipu-partition=p --vipu-allocation=a "
        "--ipus-per-replica 4 --num-replicas=16 --num-instances=8 --vipu-server-timeout=6000 python pretrain.py",
        8,
        64,
    ),
    "gpt2 pod128": (
        "poprun -vv --host h1,h2 --vipu-partition=p --num-instances=2 --num-replicas=16 --num-ilds 2 "
        "--ipus-per-replica=8 --print-topology=yes --vipu-server-timeout=3600 python train_gpt2.py --model gpt2-large",
        2,
        128,
    ),
}


@pytest.mark.parametrize("command, instances, ipus", ACCEPTED.values(), ids=ACCEPTED)
def test_graphcores_own_commands_pass(command, instances, ipus):
    parsed = poprun.parse(shlex.split(command), ipus)
    assert (parsed.count("num-instances"), parsed.ipus) == (instances, ipus)
    assert parsed.program[0] in ("python", "python3") and parsed.program[1].endswith(".py")
    assert all(name in poprun.OPTIONS for name in parsed.options)


REFUSED = {
    "another program": ("mpirun -np 2 python x.py", "begins with poprun, this one with 'mpirun'"),
    "nothing": ("", "begins with poprun"),
    "no program": ("poprun --num-instances 2 --num-replicas 4", "no program to run"),
    "unknown option": ("poprun --num-instance 2 python x.py", "unknown option --num-instance;"),
    "unknown short option": ("poprun -n 2 python x.py", "unknown option -n;"),
    "torchrun's option": ("poprun --nproc_per_node=2 python x.py", "unknown option --nproc_per_node;"),
    "mpirun's option": ("poprun --tag-output python x.py", '--mpi-global-args="--tag-output ..."'),
    "mpirun's mca": ("poprun --mca btl tcp python x.py", "--mca is an option of mpirun"),
    "mpirun's x": ("poprun -x PATH python x.py", "-x is an option of mpirun"),
    "mpirun's root": ("poprun --allow-run-as-root python x.py", "--allow-run-as-root is an option of mpirun"),
    "no option of mpirun": ("poprun --mpi-local-args=PATH python x.py", "give options of mpirun"),
    "open quote": ('poprun --mpi-global-args="--mca \'a" python x.py', "quote the arguments of mpirun as one word"),
    "no value": ("poprun --num-replicas --num-instances 2 python x.py", "--num-replicas needs a value"),
    "no value at the end": ("poprun --num-replicas", "--num-replicas needs a value"),
    "no value for mpirun": ("poprun --mpi-local-args -vv python x.py", "--mpi-local-args needs a value"),
    "empty value": ("poprun --vipu-partition= python x.py", "--vipu-partition needs a value"),
    "value for none": ("poprun --verbose=2 python x.py", "--verbose takes no value"),
    "twice": ("poprun --num-replicas 2 --num-replicas 4 python x.py", "--num-replicas is given twice"),
    "host twice by name": ("poprun --host a --host b python x.py", "--host is given twice"),
    "short and long": ("poprun -H a --host=b python x.py", "--host is given twice"),
    "no number": ("poprun --num-replicas four python x.py", "--num-replicas 'four': give a whole number of 1"),
    "no replicas": ("poprun --num-replicas 0 python x.py", "--num-replicas '0': give a whole number of 1 or more"),
    "negative": ("poprun --num-replicas=-4 python x.py", "--num-replicas '-4'"),
    "half an IPU": ("poprun --ipus-per-replica=1.5 python x.py", "--ipus-per-replica '1.5'"),
    "no switch": ("poprun --update-partition=maybe python x.py", "--update-partition 'maybe': give yes or no"),
    "port": ("poprun --vipu-server-port 80900 python x.py", "ports end at 65535"),
    "not shared out": (
        "poprun --num-instances 3 --num-replicas 16 python x.py",
        "16 replicas cannot be shared out to 3 instances equally; use 2 instances",
    ),
    "more instances": ("poprun --num-instances 8 --num-replicas 4 python x.py", "use 4 instances"),
    "replicas of no power": ("poprun --num-replicas 6 python x.py", "replicas x IPUs per replica is 6"),
    "IPUs of no power": ("poprun --num-replicas 4 --ipus-per-replica 3 python x.py", "--ipus-per-replica is 3"),
    "no powers that make one": ("poprun --num-replicas 3 --ipus-per-replica 4 python x.py", "powers of two"),
    "larger than the pod": (
        "poprun --num-replicas 8 --ipus-per-replica 4 python x.py",
        "8 replicas x 4 IPUs are 32 IPUs, the partition has 16; use 4 replicas or fewer",
    ),
    "host named twice": ("poprun --host a,a --num-instances 2 --num-replicas 2 python x.py", "a host is named twice"),
    "host in a range and by name": (
        "poprun --host pod[1-2],pod2,pod3 --num-instances 4 --num-replicas 4 python x.py",
        "a host is named twice",
    ),
    "hosts and instances": (
        "poprun --host pod[1-4] --num-instances 2 --num-replicas 4 python x.py",
        "2 instances cannot be shared out to 4 hosts equally; use a multiple of 4",
    ),
    "no host between commas": ("poprun --host a,,b python x.py", "has no host in ''"),
    "backward range": ("poprun --host pod[4-1] python x.py", "'4-1' is no range of numbers"),
    "half a range": ("poprun --host pod[1-] python x.py", "'1-' is no range of numbers"),
    "range of names": ("poprun --host pod[a-c] python x.py", "'a-c' is no range of numbers"),
    "open range": ("poprun --host pod[1-4 python x.py", "has no host in"),
    "output of nobody": (
        "poprun --num-instances 2 --num-replicas 2 --only-output-from-instance 2 python x.py",
        "the 2 instances count from 0",
    ),
}


@pytest.mark.parametrize("command, complaint", REFUSED.values(), ids=REFUSED)
def test_what_would_fail_is_refused_with_a_reason(command, complaint):
    with pytest.raises(ValueError) as refusal:
        poprun.parse(shlex.split(command, posix=True) if command else [], 16)
    assert complaint in str(refusal.value) and "\n" not in str(refusal.value)


def test_defaults_and_what_comes_after_the_program():
    parsed = poprun.parse(shlex.split("poprun -v python train.py --num-replicas 7 --mca x"))
    assert (parsed.count("num-replicas"), parsed.count("num-instances"), parsed.ipus) == (1, 1, 1)
    assert parsed.program == ("python", "train.py", "--num-replicas", "7", "--mca", "x")
    assert parsed.hosts == ["localhost"] and poprun.parse(["poprun", "--help"]).program == ()


def test_an_option_of_one_instance_may_be_repeated():
    words = ["--instance-mpi-local-args=-x A=1", "--instance-mpi-local-args=-x A=2"]
    parsed = poprun.parse(["poprun", "-vv", *words, "--num-instances=2", "--num-replicas=2", "python", "x.py"])
    assert parsed.ipus == 2


def test_hosts_in_ranges():
    assert poprun.expand_hosts("host0,host1") == ["host0", "host1"]
    assert poprun.expand_hosts("pod[08-11]-a,10.0.0.7") == ["pod08-a", "pod09-a", "pod10-a", "pod11-a", "10.0.0.7"]
    assert poprun.expand_hosts("h[0-2,4]") == ["h0", "h1", "h2", "h4"]
    command = "poprun --host=$HOSTS --num-instances 3 --num-replicas 3 --ipus-per-replica 1 python x.py"
    with pytest.raises(ValueError, match="powers of two"):  # unknown hosts stop no other check
        poprun.parse(shlex.split(command))
    assert poprun.parse(shlex.split(command.replace("3", "4"))).hosts is None
