"""Python calls that cannot be."""

import numpy as np

import packing
from bad_inputs.harness import Table
from ipu_chem.backends.options import Batching, Precision, TorchOptions
from ipu_chem.config import from_dict
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig, ScheduleConfig
from ipu_chem.scaling.search import SearchOptions
from ipu_chem.scaling.study import StudyOptions
from ipu_chem.simulation.options import MdOptions, RelaxOptions
from ipu_chem.trained_run import TrainedRun

NAMES = {one.__name__: one for one in (Batching, Precision, TorchOptions, ChemGPT, PaiNN, SchNet, OptimizerConfig)}
NAMES.update({one.__name__: one for one in (ScheduleConfig, SearchOptions, StudyOptions, MdOptions, RelaxOptions)})
NAMES.update(Budget=packing.Budget, make_plan=packing.make_plan, np=np, from_dict=from_dict, TrainedRun=TrainedRun)

BAD = """
>>> Budget(nodes=0)
>>> Budget(nodes=2**31)
>>> Budget()
>>> make_plan(np.array([3, 5]), Budget(nodes=4))
>>> make_plan(np.array([]), Budget(nodes=4), "magic")
>>> make_plan(np.array([-1]), Budget(nodes=4))
>>> make_plan(np.array([1.5]), Budget(nodes=4))
>>> make_plan({"edges": np.array([1])}, Budget(nodes=4))
>>> make_plan({"nodes": np.array([1]), "edges": np.array([1, 2])}, Budget(nodes=4, edges=4))
>>> SchNet(hidden_features=0)
>>> SchNet(hidden_features=2.5)
>>> SchNet(cutoff=float("nan"))
>>> SchNet(readout="max")
>>> PaiNN(num_radial=-1)
>>> PaiNN(num_targets=0)
>>> ChemGPT(size="", vocab_size=0, max_positions=8)
>>> ChemGPT(size="huge", vocab_size=8, max_positions=8)
>>> OptimizerConfig(betas=(0.9,))
>>> OptimizerConfig(learning_rate=float("inf"))
>>> OptimizerConfig(learning_rate="fast")
>>> OptimizerConfig(eps=0)
>>> ScheduleConfig(warmup_steps=-1)
>>> ScheduleConfig(name="linear")
>>> Batching(micro_batch_size=True)
>>> Batching(gradient_accumulation=1.5)
>>> Precision(weights="int8")
>>> TorchOptions(threads=-1)
>>> TorchOptions(compile="yes")
>>> SearchOptions(budget=2.0)
>>> SearchOptions(jobs=0)
>>> StudyOptions(rule="days")
>>> MdOptions("a.xyz", timestep=0)
>>> MdOptions("a.xyz", temperature=float("nan"))
>>> RelaxOptions(fmax=-1)
>>> from_dict({"modle": {}})
>>> from_dict({"model": 3})
>>> from_dict({"model": {"name": "schnit"}})
>>> from_dict({"training": {"epochs": None}})
>>> from_dict({"training": {"epochs": "1:30"}})
>>> from_dict({"training": {"epochs": 0}})
>>> from_dict({"optimizer": {"learning_rate": float("nan")}})
>>> from_dict({"data": {"validation": 0.7, "test": 0.7}})
>>> from_dict({"out": ""})
>>> TrainedRun.load("absent")
"""
GOOD = """
>>> Budget(nodes=4)
>>> make_plan(np.array([3, 1]), Budget(nodes=4))
>>> from_dict({"training": {"epochs": "3"}})
>>> SchNet(hidden_features=np.int64(8))
"""

TABLE = Table(BAD, GOOD, names=NAMES)
