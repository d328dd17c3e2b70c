"""PET: scanners against their definitions, each part of the model against plain formulas, Poisson reconstructions, bad input."""

import itertools
import math

import pytest
import torch
from test_rays import check_adjoint, line_integral, randn

import paralift as pl

T = torch.float64
G = torch.Generator().manual_seed(0)
RING = pl.CylindricalScanner(18, 9.0, 8, block=9)
RINGS = pl.CylindricalScanner(16, 9.0, 7, rings=4, ring_spacing=2.0, span=3)


def test_lines_of_a_ring():
    """Every pair of crystals at most once; its line is x cos(a) + y sin(a) = s; neighbouring bins are half a crystal apart in angle."""
    scanner = pl.CylindricalScanner(448, 330.0, 209)
    assert scanner.shape == (224, 209) and 224 * 209 == 46816
    view, bin = torch.meshgrid(torch.arange(224), torch.arange(209), indexing="ij")
    one, two = scanner.pair(view, bin)
    assert len(torch.unique(torch.minimum(one, two) * 448 + torch.maximum(one, two))) == 46816
    start, end = scanner.ends(view, bin)
    assert torch.allclose(start.norm(dim=-1), torch.tensor(330.0, dtype=T)) and torch.allclose(end.norm(dim=-1), torch.tensor(330.0, dtype=T))
    t = bin - 104
    a, s = (2 * view - t % 2) * math.pi / 448, 330.0 * torch.sin(math.pi * t.double() / 448)
    for p in (start, end):
        assert (p[..., 1] * a.cos() + p[..., 0] * a.sin() - s).abs().max() < 1e-3
    assert torch.allclose(pl.CylindricalScanner(448, 330.0, 209, rotation=0.3).ends(view[:1], bin[:1])[0][0, 104],
                          torch.tensor([-330 * math.cos(0.3), 330 * math.sin(0.3)], dtype=T))


@pytest.mark.parametrize("rings,difference,span", [(5, 4, 1), (5, 3, 3), (8, 7, 5), (4, 0, 1)])
def test_planes_hold_the_pairs_of_rings(rings, difference, span):
    scanner = pl.CylindricalScanner(16, 9.0, 7, rings, 2.5, difference, span)
    members = {}
    for one, two in itertools.product(range(rings), repeat=2):
        d = two - one
        if abs(d) <= difference:
            segment = (abs(d) + span // 2) // span * (1 if d > 0 else -1)
            members.setdefault((abs(segment), segment > 0, one + two), []).append((one, two))
    assert scanner.planes == len(members)
    for plane, key in enumerate(sorted(members)):                                     # segments 0, -1, +1, ..., along z in each
        pairs = members[key]
        assert all(scanner.michelogram[p] == plane for p in pairs) and (span == 1 or scanner.multiplicity[plane, 0] == len(pairs)) and scanner.slices()[plane] == key[2]
        start, end = scanner.ends(torch.tensor(3), torch.tensor(plane), torch.tensor(2))
        middle = (rings - 1) / 2
        assert abs(start[0] - (sum(p[0] for p in pairs) / len(pairs) - middle) * 2.5) < 1e-12 and abs(end[0] - (sum(p[1] for p in pairs) / len(pairs) - middle) * 2.5) < 1e-12


def test_the_mmr():
    """Published of it: 4084 planes of span 1, 837 of span 11 in segments of 127, 115, 115, ...; 252 views of 344 bins, 448 crystals on 504 places, bins of 2.086 mm."""
    mmr, compressed, plane = pl.CylindricalScanner.mmr(), pl.CylindricalScanner.mmr(span=11), pl.CylindricalScanner.mmr(rings=1)
    assert mmr.shape == (252, 4084, 344) and compressed.shape == (252, 837, 344) and plane.shape == (252, 344) == mmr.transaxial().shape
    assert (mmr.michelogram >= 0).sum() == 4084 and compressed.multiplicity.sum() == 4084
    starts = torch.nonzero(compressed.slices().diff() < 0).squeeze(-1) + 1
    assert torch.diff(torch.cat([torch.tensor([0]), starts, torch.tensor([837])])).tolist() == [127, 115, 115, 93, 93, 71, 71, 49, 49, 27, 27]
    start, end = plane.ends(torch.tensor(3), torch.tensor([172, 173]))
    assert abs(((start + end) / 2).norm(dim=-1).diff() - 2.086).abs() < 1e-3
    one, two = plane.pair(torch.arange(252)[:, None], torch.arange(344))
    assert torch.equal(plane.live, (one % 9 != 0) & (two % 9 != 0)) and torch.unique(torch.cat([one[plane.live], two[plane.live]])).numel() == 448
    lines = pl.PET(plane, (16, 16), 20.0)(torch.ones(16, 16))
    assert not lines[~plane.live].any() and (lines[:, 172][plane.live[:, 172]] > 0).all()


def test_model_against_plain_formulas():
    """Ring with gaps: N exp(-int mu) int x along every line, by the loop projector."""
    x, mu, N = torch.rand(5, 6, dtype=T, generator=G), 0.02 * torch.rand(5, 6, dtype=T, generator=G), torch.rand(RING.shape, dtype=T, generator=G)
    A = pl.PET(RING, (5, 6), 1.5, attenuation=mu, sensitivity=N, dtype=T)
    y = A(x)
    for view, bin in itertools.product(range(RING.shape[0]), range(RING.shape[1])):
        t = bin - 4
        first, second = (view + t // 2) % 18, (view - (t + 1) // 2 + 9) % 18
        if first % 9 == 0 or second % 9 == 0:
            assert y[view, bin] == 0
            continue
        ends = [[-9 * math.cos(math.pi * c / 9), 9 * math.sin(math.pi * c / 9)] for c in (first, second)]
        along = lambda image: line_integral(image, *ends, (1.5, 1.5), [-3.0, -3.75])
        assert abs(y[view, bin] - N[view, bin] * math.exp(-along(mu)) * along(x)) < 1e-12
    factors = pl.PET(RING, (5, 6), 1.5, attenuation=torch.exp(-pl.JosephProjector(RING, (5, 6), 1.5, dtype=T)(mu)), sensitivity=N, dtype=T)
    assert torch.allclose(factors(x), y)


def test_planes_of_several_pairs_count_so_often():
    A, B = pl.PET(RINGS, (4, 5, 6), 1.5, dtype=T), pl.JosephProjector(RINGS, (4, 5, 6), 1.5, dtype=T)
    x = torch.rand(4, 5, 6, dtype=T, generator=G)
    assert torch.allclose(A(x), RINGS.multiplicity * B(x)) and RINGS.multiplicity.max() > 1


TOF = pl.TimeOfFlight(4, 30.0, 50.0)
CASES = {"ring": (RING, (5, 6), {}), "ring, all": (RING, (5, 6), {"tof": TOF, "resolution": (2.0, 3.0), "attenuation": torch.full((5, 6), 0.01)}),
         "rings": (RINGS, (3, 4, 5), {"attenuation": torch.full((3, 4, 5), 0.01), "resolution": 2.0}), "rings, time": (RINGS, (3, 4, 5), {"tof": TOF}),
         "parallel": (pl.ParallelBeam(torch.arange(5) * 0.6, 7, 1.2), (5, 6), {"resolution": 1.5})}


@pytest.mark.parametrize("storage", ["stored", "matrix-free"])
@pytest.mark.parametrize("name", CASES)
def test_adjoint_rows_and_derivatives(name, storage):
    geometry, shape, parts = CASES[name]
    background = torch.rand(pl.JosephProjector(geometry, shape, tof=parts.get("tof")).range.shape, generator=G)
    A = pl.PET(geometry, shape, 1.5, background=background, storage=storage, dtype=T, **parts)
    check_adjoint(A)
    check_adjoint(A, 2)
    x, dx = randn(2, *shape), randn(2, *shape)
    for index in (slice(1, None, 2), torch.tensor([4, 0])):
        part = A.rows(index)
        assert torch.allclose(part(x), A(x)[:, index], atol=1e-12) and torch.equal(part.background, A.background[index])
        check_adjoint(part, 2)
    one = randn(*shape).requires_grad_()
    assert torch.allclose(torch.autograd.grad((A(one) ** 2).sum(), one)[0], 2 * A.adjoint(A(one))) and torch.allclose(torch.func.jvp(A, (x,), (dx,))[1], A(dx))
    assert torch.allclose(torch.func.vmap(A)(x), A(x))
    if storage == "stored":
        assert torch.autograd.gradgradcheck(lambda v: A(v)[:1] ** 2, (one,), atol=1e-4)
    counts = torch.poisson(A(x.abs())[0] + A.background, generator=G)
    term = pl.KullbackLeibler(counts, background=A.background) @ A
    z = x[0].abs()
    assert torch.allclose(sum(t(z) for t in pl.subsets(term, 2)), term(z)) and torch.isfinite(term.gradient(z)).all()


def test_blur_is_the_normalised_gaussian():
    S = pl.Space((9, 11), T)
    blur = pl.GaussianBlur(S, (3.0, 4.0), (1.5, 2.0))
    x, out = randn(9, 11), torch.zeros(9, 11, dtype=T)
    weights = []
    for w, v in ((3.0, 1.5), (4.0, 2.0)):
        sigma = w / v / math.sqrt(8 * math.log(2))
        raw = {i: math.exp(-0.5 * (i / sigma) ** 2) for i in range(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)}
        weights.append({i: r / sum(raw.values()) for i, r in raw.items()})
    for i, j in itertools.product(range(9), range(11)):
        out[i, j] = sum(a * b * x[i - p, j - q] for p, a in weights[0].items() for q, b in weights[1].items() if 0 <= i - p < 9 and 0 <= j - q < 11)
    assert (blur(x) - out).abs().max() < 1e-13 and torch.equal(pl.GaussianBlur(S, 0.0)(x), x)
    wide = pl.GaussianBlur(pl.Space((41,), T), 5.0)(torch.eye(41, dtype=T)[20])
    half = wide[20] / 2
    assert abs(wide[20 - 2] - half) > 0 and wide[17] < half < wide[18] and abs(wide.sum() - 1) < 1e-12


def test_attenuation_from_ct():
    mu = pl.hounsfield_to_attenuation(torch.tensor([-1000, 0, 1000, -1024]))
    assert torch.allclose(mu, torch.tensor([0.0, 0.0096, 0.01491, 0.0]), atol=1e-6)
    for kvp in (80, 100, 110, 120, 130, 140):                                          # the two lines meet
        at = pl.hounsfield_to_attenuation(torch.linspace(20, 60, 4001, dtype=T), kvp)
        assert at.diff().min() > -3e-6 and at.diff().max() < 3e-6
    for call, text in ((lambda: pl.hounsfield_to_attenuation(torch.zeros(2), 90), "kvp=90"), (lambda: pl.hounsfield_to_attenuation(torch.tensor([math.nan])), "NaN"),
                       (lambda: pl.hounsfield_to_attenuation(torch.tensor([-3000.0])), "in HU")):
        with pytest.raises(ValueError, match=text):
            call()


def test_em_and_subsets_find_the_maximum_of_the_likelihood():
    """MLEM with a background never lowers the likelihood and reaches its stationary point; ordered subsets of the same term are ahead of it after as many passes."""
    A = pl.PET(pl.CylindricalScanner(48, 30.0, 31), (12, 12), 2.0, background=torch.full((24, 31), 0.5), dtype=T)
    grid = torch.arange(12, dtype=T) - 5.5
    truth = 2.0 * ((grid[:, None] ** 2 + grid**2) < 20) + 3.0 * ((grid[:, None] - 1) ** 2 + (grid + 2) ** 2 < 2)
    counts = torch.poisson(A(truth) + A.background, generator=G)
    f = pl.KullbackLeibler(counts, background=A.background) @ A
    one = A.adjoint(torch.ones_like(counts))
    x, values = torch.ones_like(truth), []
    for _ in range(300):
        x = x / one * A.adjoint(counts / (A(x) + A.background))
        values.append(f(x))
    assert all(b <= a + 1e-9 for a, b in zip(values, values[1:]))
    assert ((x * f.gradient(x)).abs().max() / one.max()) < 0.05 and (x - truth).norm() / truth.norm() < 0.5
    y, parts = torch.ones_like(truth), [A.rows(slice(j, None, 6)) for j in range(6)]
    for _ in range(3):
        for j, B in enumerate(parts):
            part = counts[j::6]
            y = y / B.adjoint(torch.ones_like(part)) * B.adjoint(part / (B(y) + B.background))
    assert f(y) < values[9]


BAD = [
    (lambda: pl.CylindricalScanner(17, 9.0), "even number"), (lambda: pl.CylindricalScanner(16, 9.0, 16), "fewer bins"),
    (lambda: pl.CylindricalScanner(16, -1.0), "radius above 0"),
    (lambda: pl.CylindricalScanner(16, 9.0, rings=3), "spacing in mm"), (lambda: pl.CylindricalScanner(16, 9.0, rings=3, ring_spacing=1.0, span=2), "odd span"),
    (lambda: pl.CylindricalScanner(16, 9.0, block=5), "divisor"), (lambda: pl.PET(RING, (3, 4, 5)), "need 2 axes"),
    (lambda: pl.PET(RING, (5, 6), attenuation=torch.zeros(4, 6)), "the image's .5, 6."),
    (lambda: pl.PET(RING, (5, 6), attenuation=torch.full((5, 6), 0.096)), "divide one in 1/cm by 10"),
    (lambda: pl.PET(RING, (5, 6), attenuation=-torch.ones(5, 6)), "below 0"), (lambda: pl.PET(RING, (5, 6), attenuation=torch.full(RING.shape, 1.5)), r"outside \(0, 1\]"),
    (lambda: pl.PET(RING, RING.shape, attenuation=torch.ones(RING.shape)), "where the two agree"),
    (lambda: pl.PET(RING, (5, 6), sensitivity=torch.ones(9, 7)), "it needs .9, 8."),
    (lambda: pl.PET(RING, (5, 6), sensitivity=-torch.ones(9, 8)), "below 0"), (lambda: pl.PET(RING, (5, 6), background=torch.full((9, 8), math.nan)), "NaN"),
    (lambda: pl.PET(RING, (5, 6), background=torch.ones(9, 8), tof=TOF), "it needs .9, 8, 4."), (lambda: pl.PET(RING, (5, 6), resolution=-1.0), "at least 0"),
    (lambda: pl.PET(RING, (5, 6), resolution=(1.0, 1.0, 1.0)), "each of the 2 axes"), (lambda: pl.PET(RING, (5, 6), attenuation=0.0096), "mu in 1/mm"),
    (lambda: pl.PET(RING, (5, 6))(torch.zeros(6, 5)), "trailing axes"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, text = BAD[case]
    with pytest.raises(ValueError, match=text):
        call()
