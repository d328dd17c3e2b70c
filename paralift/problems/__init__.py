"""What is solved: the contract, composites and lifted training."""

from .certificate import Certificate, certain_subgradient, nearest_subgradient
from .composite import Composite
from .contrastive import ContrastiveProblem, ContrastiveTraining
from .convexity import Convexity
from .inversion_bound import inversion_error_bound, inversion_weight
from .learned_regulariser import LearnedRegulariser
from .lift import StageGraph, lift
from .lifted import LiftedProblem
from .lifted_inversion import LiftedInversion
from .lifted_training import LiftedTraining
from .linear_model import linear_model
from .losses import CrossEntropy, FunctionalLoss, KullbackLeiblerLoss, Logistic, Loss, PenaltyLoss, SquaredError
from .mask_refinement import refine_mask
from .partition import partition, stage_costs
from .problem import Linearisation, Problem
from .reconstruction import Reconstruction
from .sample_groups import SampleGroups, line_groups, spoke_groups
from .sampling_design import Sampling, SamplingDesign
from .source_condition import SourceCondition
from .stages import Stage, affine, chain
