"""Every exported method, how it is made for n iterations, and the problems of problems.py that it takes. A new method is one entry of METHODS (or JUDGED)."""

import inspect

import paralift as pl

GRADIENT = {**dict.fromkeys(("lasso", "logistic", "nonnegative", "nuclear", "poisson", "simplex"), "smooth"), "tv": "dual"}
SPLIT = {**dict.fromkeys(GRADIENT, "split"), "simplex": "three"}
BOUNDED = {k: form for k, form in GRADIENT.items() if k != "poisson"}             # F with a Lipschitz gradient
QUADRATIC = {"lasso": "three", "nonnegative": "smooth", "nuclear": "smooth", "simplex": "smooth", "tv": "smooth"}     # F whose prox is known

# class: {variant: (made for n iterations, {problem: the form it takes})}. A problem that no variant of a class takes must be refused in each of its forms.
METHODS = {
    "PGD": {"": (lambda n: pl.PGD(n), GRADIENT), "backtracking": (lambda n: pl.PGD(n, step="backtracking"), GRADIENT),
            "nesterov": (lambda n: pl.PGD(n, acceleration="nesterov"), GRADIENT), "heavy_ball": (lambda n: pl.PGD(n, acceleration="heavy_ball"), GRADIENT),
            "barzilai_borwein": (lambda n: pl.PGD(n, step="barzilai_borwein"), GRADIENT)},
    "FISTA": {"gradient": (lambda n: pl.FISTA(n), GRADIENT), "function": (lambda n: pl.FISTA(n, restart="function"), GRADIENT),
              "greedy": (lambda n: pl.FISTA(n, restart="greedy"), GRADIENT), "none": (lambda n: pl.FISTA(n, restart=None), GRADIENT)},
    "BCD": {"": (lambda n: pl.BCD(n), GRADIENT), "inertia": (lambda n: pl.BCD(n, inertia=0.6), {k: form for k, form in GRADIENT.items() if k != "poisson"}),
            "random": (lambda n: pl.BCD(n, order="random"), GRADIENT), "red_black": (lambda n: pl.BCD(n, order="red_black"), GRADIENT)},
    "BregmanPGD": {"entropy": (lambda n: pl.BregmanPGD(n), {"poisson": "smooth", "simplex": "smooth"}),
                   "euclidean": (lambda n: pl.BregmanPGD(n, kernel=pl.EuclideanKernel()), GRADIENT)},
    "LBFGS": {"": (lambda n: pl.LBFGS(n), {"nonnegative": "smooth", "poisson": "smooth"})},
    "DouglasRachford": {"": (lambda n: pl.DouglasRachford(n), QUADRATIC), "plain": (lambda n: pl.DouglasRachford(n, relaxation=1.0), QUADRATIC)},
    "PDHG": {"adaptive": (lambda n: pl.PDHG(n), SPLIT), "constant": (lambda n: pl.PDHG(n, variant="constant"), SPLIT),
             "explicit": (lambda n: pl.PDHG(n), BOUNDED), "explicit and split": (lambda n: pl.PDHG(n), {"lasso": "three"})},
    "SPDHG": {"": (lambda n: pl.SPDHG(n), {k: form for k, form in SPLIT.items() if k != "simplex"})},
    "ADMM": {"": (lambda n: pl.ADMM(n), SPLIT), "relaxed": (lambda n: pl.ADMM(n, relaxation=1.6), SPLIT),
             "fixed": (lambda n: pl.ADMM(n, rho=0.1, balancing=False), {k: form for k, form in SPLIT.items() if k != "tv"}),
             "explicit": (lambda n: pl.ADMM(n), {"lasso": "three"}), "z = x": (lambda n: pl.ADMM(n), BOUNDED)},
    "PIAG": {"adaptive": (lambda n: pl.PIAG(n), BOUNDED), "bold": (lambda n: pl.PIAG(n, step="bold"), BOUNDED)},
}

# methods on finite sums, and those that minimise something else: class: the tests ("file::function" of this folder) that judge them by their own theorem
JUDGED = {
    "SAGA": ["test_stochastic::test_methods_reach_the_reference_optimum", "test_optima::test_finite_sums_reach_the_optimum"],
    "SVRG": ["test_stochastic::test_methods_reach_the_reference_optimum", "test_optima::test_finite_sums_reach_the_optimum"],
    "Katyusha": ["test_stochastic::test_methods_reach_the_reference_optimum", "test_optima::test_finite_sums_reach_the_optimum"],
    "ISGM": ["test_optima::test_finite_sums_reach_the_optimum", "test_rates::test_an_implicit_step_is_a_proximal_point_step"],
    "ImplicitGradient": ["test_implicit_gradient::test_implicit_gradient_finds_the_input"],
    "ConjugateGradient": ["test_imaging::test_conjugate_gradients_solve_the_normal_equations", "test_imaging::test_conjugate_gradients_keep_their_rate"],
    "MLEM": ["test_imaging::test_mlem_falls_at_its_rate_to_the_optimum"],
    "OSEM": ["test_imaging::test_osem_is_mlem_on_subsets_and_faster_at_first"],
    "SGD": ["test_rates::test_sgd_reaches_its_ball_at_its_rate"],
    "LinearizedBregman": ["test_rates::test_linearized_bregman_finds_the_least_regular_solution"],
}


def exported():
    """{name: class} of the solvers that the library exports."""
    return {n: c for n, c in vars(pl.solvers).items() if inspect.isclass(c) and issubclass(c, pl.Solver) and c is not pl.Solver}


CASES = [(kind, variant, name) for kind, variants in METHODS.items() for variant, (_, forms) in variants.items() for name in forms]
