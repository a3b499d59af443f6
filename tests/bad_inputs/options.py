"""Options of a run that cannot work: refused before any data are prepared."""

from bad_inputs.harness import Table

BAD = """
train --training.epochs 0
train --training.epochs -3
train --training.epochs many
train --training.epochs 3.5
train --training.epochs
train --training.epochs null
train --training.epochs 1e3
train --training.epochs 1:30
train --training.epochs 0x
train --training.epoch 3
train --epochs 3
train --trainig.epochs 3
train --training.progress maybe
train --training.progress=maybe
train --training.progress 1
train --training.seed -1
train --training.seed 99999999999999999999
train --training.ema_decay 1
train --training.ema_decay 1.5
train --training.ema_decay .nan
train --training.log_every 0
train --training.evaluate_every 0
train --training.prefetch -1
train --training.samples -1
train --training.loggers [tensorbord]
train --training.loggers 3
train --training.start_from nowhere
train --training.early_stopping -1
train epochs 3
train stray
train --
train -x
train --model.name schnat
train --model.name ""
train --model.name absent_module:Model
train --model.name own:Nothing
train --model.name own:NoModel
train --model.name own:NoCutoff
train --model.name own:Narrow --model.width 0
train --model.name own:Narrow --model.width -4
train --model.hidden_features 0
train --model.hidden_features -8
train --model.hidden_features 1
train --model.hidden_features 99999999999
train --model.hidden_features 1000000
train --model.num_filters -1
train --model.num_gaussians 1
train --model.num_gaussians 10000000000
train --model.num_interactions 0
train --model.num_interactions 1000000000
train --model.cutoff 0
train --model.cutoff -5
train --model.cutoff .nan
train --model.cutoff .inf
train --model.cutoff five
train --model.readout max
train --model.readout median
train --model.readout dipole --force_share 0.9
train --model.readout extent --data.references linear
train --model.readout dipole_vectors
train --model.filter fast
train --model.filter Table
train --model.table_points 2
train --model.table_points -1
train --model.table_points 100000000000
train --model.num_heads 4
train --model.freeze
train --model.name painn --model.num_radial 0
train --model.name painn --model.hidden_features 0
train --model.name painn --model.filter bessel
train --model.name spookynet --model.filter table
train --model.name spookynet --model.num_interactions -1
train --model.name spookynet --model.readout mean
train --model.name spookynet --data.target "a,b"
train --model.name chemgpt --model.size chemgpt-7b
train --model.name chemgpt --model.hidden_features 0
train --model.name chemgpt --model.hidden_features 10 --model.num_heads 3
train --model.name chemgpt --model.num_heads -2
train --model.name chemgpt --model.num_layers 0
train --model.name chemgpt --model.num_layers 100000000
train --model.name chemgpt --model.positions sinus
train --model.name chemgpt --model.positions rope --model.hidden_features 9 --model.num_heads 3
train --model.name chemgpt --model.local_window -1
train --model.name chemgpt --model.freeze
train --model.name chemgpt --model.cutoff 5
train --model.name chemgpt --pack.tokens -5
train --model.name chemgpt --model.mup_base_width -8
train --model.name chemgpt --model.mup_base_width 64 --optimizer.name sgd
train --model.name chemgpt --data.name nci --model.readout sums --data.target a
train --model.name chemgpt --data.name nci --loss mse --data.long cut
train --loss msee
train --loss ""
train --loss bce
train --force_share 2
train --force_share -0.1
train --force_share .nan
train --force_share .inf
train --optimizer.name adan
train --optimizer.learning_rate 0
train --optimizer.learning_rate -1e-3
train --optimizer.learning_rate .nan
train --optimizer.learning_rate .inf
train --optimizer.learning_rate 1e-3x
train --optimizer.learning_rate fast
train --optimizer.weight_decay -1
train --optimizer.weight_decay .nan
train --optimizer.betas [0.9,1.0]
train --optimizer.betas [1.5,0.9]
train --optimizer.betas [0.9]
train --optimizer.betas [0.9,0.99,0.999]
train --optimizer.betas 0.9
train --optimizer.betas [-0.1,0.9]
train --optimizer.betas [.nan,0.9]
train --optimizer.eps 0
train --optimizer.eps -1e-8
train --optimizer.eps .inf
train --optimizer.momentum 1
train --optimizer.momentum -0.5
train --optimizer.max_grad_norm -1
train --optimizer.max_grad_norm .nan
train --schedule.name linear
train --schedule.warmup_steps -5
train --schedule.warmup_steps 2.5
train --schedule.min_factor 2
train --schedule.min_factor -0.1
train --schedule.plateau_factor 0
train --schedule.plateau_factor 1.5
train --schedule.plateau_patience 0
train --schedule.plateau_patience -1
train --batching.micro_batch_size 0
train --batching.micro_batch_size 2.5
train --batching.gradient_accumulation -1
train --batching.replication_factor 0
train --batching.device_iterations 0
train --precision.weights float64
train --precision.weights bfloat16
train --precision.loss_scaling 0
train --precision.loss_scaling .inf
train --precision.partials float16
train --pack.nodes -1
train --pack.edges -2
train --pack.graphs -1
train --pack.device_neighbors -2
train --pack.device_neighbors 8 --pack.edges 100
train --pack.positions int8
train --pack.algorithm magic
train --pack.time_limit -1
train --pack.time_limit .nan
train --torch.autocast float8
train --torch.threads -1
train --torch.timeout 0
train --torch.cuda_graphs
train --torch.compile_blocks
train --torch.fsdp
train --ipu.ipus_per_replica 3
train --ipu.layers_per_ipu [1,2]
train --ipu.layers_per_ipu x
train --ipu.available_memory_proportion [2.0]
train --ipu.io_tiles 7
train --ipu.execution parallel
train --ipu.offline 3
train --accelerator tpu
train --accelerator gpu
train --data.name qm8
train --data.name file
train --data.name file --data.path missing.csv
train --data.name file --data.path ""
train --data.limit -1
train --data.limit 2.5
train --data.workers -1
train --data.references quadratic
train --data.split stratified
train --data.split missing.json
train --data.split_seed -1
train --data.validation 0.6 --data.test 0.6
train --data.validation 1.5
train --data.validation -0.1
train --data.test .nan
train --data.train 0.9
train --data.train 10.5
train --data.target "a,a"
train --data.unit eV
train --data.molecule ethanol
train --data.name rmd17 --data.molecule water
train --data.name qm9 --data.path nowhere
train --model.name chemgpt --data.name nci --data.tokenizer missing.json
train --resume
train --resume nowhere
train --resume file.txt
train --out file.txt
train --out file.txt/run
train --out ""
train --config missing.yaml
train --config
train --config schnet
train --helpme
train --torch.threads 99999999
train --data.workers 99999999
train --model.cutoff 1e30
train --model.cutoff 1e-300
train --pack.nodes 99999999
train --pack.nodes 9999999 --model.hidden_features 100000
train --training.samples 99999999999
train --training.prefetch 99999999
train --torch.timeout 1e30
train --model.name chemgpt --data.name nci --force_share 0.5
train --model.name chemgpt --data.name nci --model.filter sharp
train --model.name chemgpt --data.name nci --model.readout sums
train --accelerator ipu --ipu.ipus_per_replica 2 --ipu.layers_per_ipu [5,5] --batching.gradient_accumulation 4
train --accelerator ipu --ipu.ipus_per_replica 8
"""

GOOD = """
train --help
train --help-all
train --model.help painn
recipes
"""

OWN = """
from torch import nn

from ipu_chem.models.base import GraphModel


def NoModel(cutoff: float = 5.0):
    return None


class NoCutoff(GraphModel):
    def __init__(self, width: int = 8):
        super().__init__()


class Narrow(GraphModel):
    def __init__(self, cutoff: float = 5.0, width: int = 8):
        super().__init__()
        self.cutoff, self.share = cutoff, 64 // width
        self.layer = nn.Linear(width, 1)
"""

TABLE = Table(BAD, GOOD, {"file.txt": "not a folder\n", "own.py": OWN})
