"""Prescribed momenta computed by hand, refusals with key, value and fix, and series whose kind is known."""

import math
import random
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hjepa.audit import specs
from hjepa.audit.measure.nearest import closest, nearest
from hjepa.audit.measure.schedule_kind import kind_of
from hjepa.audit.specs import PROFILES, Spec, custom, from_toml, named

PUBLISHED = [name for name in PROFILES if name not in ("custom", "auto")]


def series(spec, first=0, count=20):
    return [spec.momentum(update) for update in range(first, first + count)]


def as_float32(values):
    return [struct.unpack("f", struct.pack("f", value))[0] for value in values]


def noisy(values, error, seed):
    source = random.Random(seed)
    return [value + source.gauss(0.0, error) for value in values]


# ------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (specs.ijepa(1000), {0: 0.996, 1: 0.996004, 250: 0.997, 999: 0.999996, 1000: 1.0, 5000: 1.0}),
        # 300 epochs of 300 steps, stretched by 1.25: the last of 90,000 stands at 0.8 of the line
        (specs.vjepa(90_000), {0: 0.998, 45_000: 0.9988, 90_000: 0.9996, 112_500: 1.0}),
        (specs.vjepa2(), {0: 0.99925, 10**6: 0.99925}),
        # half of the way in the middle, 0.75 of it after two thirds: (1 + cos 120 degrees) / 2 = 1/4
        (specs.byol(900), {0: 0.996, 300: 0.997, 450: 0.998, 600: 0.999, 900: 1.0}),
        (specs.dino(900), {0: 0.996, 300: 0.997, 900: 1.0}),
        (specs.ibot(900), {450: 0.998}),
        (specs.dinov2(900), {0: 0.992, 450: 0.996, 900: 1.0}),
        (specs.dinov3(900, start=0.994, end=0.994), {0: 0.994, 899: 0.994}),
        (specs.moco(), {0: 0.999, 77: 0.999}),
        (specs.moco_v3(900), {0: 0.99, 899: 0.99}),
        (specs.moco_v3(900, end=1.0), {0: 0.99, 450: 0.995}),
        (specs.data2vec(), {0: 0.999, 10_000: 0.9993, 30_000: 0.9999, 400_000: 0.9999}),
        (specs.data2vec2(), {0: 0.9998, 50_000: 0.999895, 100_000: 0.99999, 300_000: 0.99999}),
        (specs.mean_teacher(), {0: 0.5, 1: 2 / 3, 8: 0.9, 997: 1 - 1 / 999, 998: 0.999, 5000: 0.999}),
        (specs.mean_teacher(first_index=0), {0: 0.0, 1: 0.5, 999: 0.999}),
        # cosine of 0.8 pi is -0.809017, so 0.190983 / 2 of 0.001 is left at the end
        (
            specs.capi(500_000),
            {0: 1.0, 49_999: 0.999, 50_000: 0.999, 499_999: 1 - 0.001 * 0.0954915, 500_000: 1.0},
        ),
        (custom(1.0, kind="frozen"), {0: 1.0, 9: 1.0}),
        (custom(0.9, 1.0, "linear", 10, first_index=1), {0: 0.91, 8: 0.99, 9: 1.0}),
        (custom(0.9, 1.0, "linear", 10, first_index=-1), {0: 0.9, 1: 0.9, 2: 0.91}),
    ],
    ids=lambda value: value.name if isinstance(value, Spec) else "",
)
def test_momentum_by_hand(spec, values):
    assert {update: spec.momentum(update) for update in values} == pytest.approx(values, abs=3e-9)


def test_the_warm_down_of_capi_is_a_line_to_its_last_step():
    assert specs.capi(500_000, anneal_steps=11).momentum(5) == pytest.approx(0.9995)


@pytest.mark.parametrize(("name", "later"), [("ijepa", None), ("dino", None), ("capi", 0.9999999), ("moco", 0.999)])
def test_without_a_horizon_only_the_first_momentum_is_known(name, later):
    spec = named(name)
    assert spec.momentum(0) == spec.start
    assert spec.momentum(5) == (pytest.approx(later, abs=1e-6) if later else None)
    assert spec.momentum(60_000) == (0.999 if name == "moco" else None)


def test_nothing_is_known_before_the_first_update_or_without_a_prescription():
    assert specs.ijepa(100).momentum(-1) is None
    assert specs.auto(100).momentum(0) is None
    assert not specs.auto().prescribed
    assert specs.ijepa().prescribed


@pytest.mark.parametrize("name", PUBLISHED)
@given(total=st.integers(60_000, 10**6), update=st.integers(0, 2 * 10**6))
@settings(max_examples=40, deadline=None)
def test_every_published_momentum_lies_in_its_range_and_rises(name, total, update):
    spec = named(name, total_steps=total)
    for one in (spec, *spec.variants):
        now, then = one.momentum(update), one.momentum(update + 1)
        low = min(one.start, one.end if one.middle is None else one.middle)
        assert low <= now <= 1.0
        assert now <= one.end or one.kind == "warm-down-cosine"
        assert then >= now or (one.kind == "warm-down-cosine" and update < one.anneal_steps)


@given(
    start=st.floats(0, 1), end=st.floats(0, 1), kind=st.sampled_from(["linear", "cosine"]),
    total=st.integers(1, 500), scale=st.floats(0.1, 4), update=st.integers(0, 3000),
)  # fmt: skip
def test_a_custom_curve_stays_between_its_ends(start, end, kind, total, scale, update):
    spec = custom(start, end, kind, total, scale=scale)
    assert min(start, end) - 1e-12 <= spec.momentum(update) <= max(start, end) + 1e-12
    assert spec.momentum(0) == start
    assert spec.momentum(math.ceil(total * scale)) == pytest.approx(end)


# ------------------------------------------------------------------ profiles


def test_every_profile_has_its_source_in_code_and_in_its_docstring():
    for name, profile in PROFILES.items():
        spec = profile(momentum=0.99) if name == "custom" else profile()
        assert spec.name == name
        assert spec.source
        assert profile.__doc__
        if name in PUBLISHED:
            repository = spec.source.split(":")[0].split("@")[0]
            assert repository in profile.__doc__, name
            assert "arXiv:" in profile.__doc__


def test_what_the_profiles_prescribe_beside_values():
    assert {name: named(name).orders for name in ("ijepa", "moco", "moco-v3", "data2vec", "data2vec2")} == {
        "ijepa": {"A"}, "moco": {"B'"}, "moco-v3": {"B'"}, "data2vec": {"A", "B"}, "data2vec2": {"B"},
    }  # fmt: skip
    assert {name for name in PUBLISHED if named(name).on_skipped_step == "forbidden"} == {"capi", "data2vec2"}
    assert {name for name in PUBLISHED if named(name).initial == "any"} == {"byol", "mean-teacher"}
    normalised = {name for name in PUBLISHED if named(name).target_normalisation == "layer-norm"}
    assert normalised == {"ijepa", "vjepa", "vjepa2", "data2vec2"}
    assert specs.auto().orders == {"A", "B", "B'"}


def test_other_published_settings_are_kept_beside_the_first():
    assert specs.byol().starts == (0.996, 0.99, 0.97)
    assert specs.byol(start=0.99).starts == (0.99,)
    assert specs.dinov2().starts == (0.992, 0.994)
    assert specs.data2vec2().starts == (0.9998, 0.999, 0.9999, 0.9997)
    assert specs.dinov3().summary == "cosine from 0.992 (also published: 0.994, 0.999) to 1"
    assert re.fullmatch(r"warm-down-cosine from 1 to 0\.999\W.* to 1", specs.capi().summary)
    assert specs.moco().summary == "constant 0.999"


def test_the_closest_published_setting_is_the_one_that_was_measured():
    chosen = closest(specs.byol(9000), [0.9901, 0.9899], [0, 1])
    assert (chosen.start, chosen.total_steps, chosen.starts) == (0.99, 9000, (0.99, 0.996, 0.97))
    assert closest(specs.mean_teacher(), [0.0, 0.5], [0, 1]).first_index == 0
    assert closest(specs.mean_teacher(), [0.5, 2 / 3], [0, 1]).first_index == 1
    assert closest(specs.dinov3(9000), [0.994] * 3, [0, 1, 2]).kind == "constant"
    assert closest(specs.byol(), [], []).start == 0.996


# ------------------------------------------------------------------ refusals


MOMENTUM = r"momentum .*\[0, 1\].* 0\.996$"
STEPS = r"optimizer steps, .*1 or more"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ijpa", {}, rf".*'ijpa'.*'ijepa'.* {', '.join(PROFILES)}$"),
        ("ijepa", {"total_step": 9}, r".*'ijepa' .*'total_step'.*'total_steps'.* total_steps, start, end, scale$"),
        ("custom", {}, r".*'custom' needs 'momentum': .*0\.99$"),
        ("ijepa", {"start": 1.01}, rf"start = 1\.01: {MOMENTUM}"),
        ("custom", {"momentum": -0.1}, rf"momentum = -0\.1: {MOMENTUM}"),
        ("custom", {"momentum": math.nan}, rf"momentum = nan: {MOMENTUM}"),
        (
            "custom",
            {"momentum": 0.99, "final_momentum": 1.0},
            r"final_momentum = 1\.0: set kind = 'linear' or 'cosine'",
        ),
        ("ijepa", {"total_steps": 0}, rf"total_steps = 0: .*{STEPS}"),
        ("ijepa", {"total_steps": True}, rf"total_steps = True: .*{STEPS}"),
        (
            "custom",
            {"momentum": 0.9, "kind": "sine"},
            r"kind = 'sine': .*'constant', 'linear', 'cosine', 'linear-then-constant', 'ramp', 'warm-down-cosine', "
            r"'frozen', 'any'$",
        ),
        ("custom", {"momentum": 0.9, "orders": ["C"]}, r"orders = \['C'\]: .* A, B, B'$"),
        ("vjepa", {"scale": 0}, r"scale = 0: .* above 0"),
        ("capi", {"total_steps": 9000}, r"anneal_steps = 50000: .* below total_steps = 9000$"),
        (
            "custom",
            {"momentum": 0.9, "kind": "linear-then-constant"},
            r"anneal_steps = None: kind = 'linear-then-constant' needs .*optimizer steps$",
        ),
        (
            "custom",
            {"momentum": 0.9, "kind": "ramp", "final_momentum": 0.999},
            r"start = 0\.9: .*ramp.* 0\W.*first_index or end",
        ),
        ("custom", {"momentum": 0.9, "kind": "frozen"}, r"start = 0\.9: .*frozen.*set 1\.0,? or kind = 'constant'$"),
        ("custom", {"momentum": 0.9, "buffers": "mean"}, r"buffers = 'mean': .*'own', 'copy', 'ema', 'none', 'any'$"),
    ],
)
def test_refusals_name_key_value_and_remedy_in_one_line(name, arguments, message):
    with pytest.raises(ValueError) as caught:
        named(name, **arguments)
    assert re.match(message, str(caught.value)) and "\n" not in str(caught.value)


# ------------------------------------------------------------------ files


def write(tmp_path, text):
    path = tmp_path / "spec.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("head", ["", "[spec]\n"])
def test_a_file_changes_a_base(tmp_path, head):
    text = 'base = "ijepa"\nstart = 0.99\ntotal_steps = 100\norders = ["B"]\ntarget_normalisation = "none"\n'
    spec = from_toml(write(tmp_path, head + text))
    assert (spec.name, spec.start, spec.total_steps, spec.orders) == ("ijepa", 0.99, 100, {"B"})
    assert spec.target_normalisation is None
    assert spec.momentum(50) == pytest.approx(0.995)
    assert spec.source == specs.ijepa().source


def test_a_file_without_a_base_is_custom_under_either_name(tmp_path):
    by_argument = from_toml(write(tmp_path, 'momentum = 0.9\nfinal_momentum = 1\nkind = "cosine"\ntotal_steps = 10'))
    by_field = from_toml(write(tmp_path, 'start = 0.9\nend = 1\nkind = "cosine"\ntotal_steps = 10'))
    assert by_argument == by_field == custom(0.9, 1, "cosine", 10)


def test_a_file_keeps_the_other_published_settings_unless_it_names_a_value(tmp_path):
    spec = from_toml(write(tmp_path, 'base = "byol"\nbuffers = "ema"'))
    assert [one.buffers for one in (spec, *spec.variants)] == ["ema"] * 3
    assert from_toml(write(tmp_path, 'base = "byol"\nstart = 0.97')).starts == (0.97,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "ijepa"\nstart = 2', r"start = 2: momentum .*\[0, 1\]"),
        ('base = "ijepa"\nstart = "high"', r"start = 'high': momentum .*\[0, 1\]"),
        ('base = "ijepa"\nend = 0.9\nkind = "constant"', r"end = 0\.9: .*constant.* 0\.996\W.* or kind = 'linear'"),
        ('base = "ijepa"\ntotl_steps = 9', r"totl_steps = 9: .* key.*'total_steps'.* base, "),
        ('base = "ijepa"\ninitial = "same"', r"initial = 'same': .*'equal', 'any'"),
        ('base = "ijepa"\norders = [1]', r"orders = \[1\]: .* A, B, B'"),
        ('base = "ijepa"\nvariants = []', r"variants = \[\]: .* key"),
        ('base = "ijepa"\nname = 3', r"name = 3: .*quote"),
        ("base = 3", r"base = 3: .*profile.* ijepa, vjepa, "),
        ('base = "jepa"', r".*'jepa'.*did you mean "),
        ("total_steps = 9", r".*'custom' needs 'momentum'"),
        ("spec = 3", r"spec = 3: .*\[spec\] table"),
        ("total_steps = 9\n[spec]\nmomentum = 0.9", r"total_steps = 9: move it below .*\[spec\]"),
        ("momentum = = 1", "Invalid value"),
    ],
)
def test_a_file_is_refused_in_one_line_with_its_name(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        from_toml(path)
    assert re.match(rf"{re.escape(str(path))}: {message}", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_toml(tmp_path / "none.toml")


# ------------------------------------------------------------------ kind

STAIRS = [0.99 + 0.001 * (update // 5) for update in range(20)]
LATE_STAIRS = [0.99 + 0.001 * ((update + 2) // 5) for update in range(20)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (series(specs.vjepa2()), "constant"),
        (series(specs.ijepa(187_500)), "linear"),  # the published run: 2e-8 a step
        (series(specs.ijepa(9000)), "linear"),
        (series(specs.ijepa(10)), "linear"),  # ends inside the window, then stays at 1
        (series(custom(0.996, 1.0, "linear", 9000, first_index=3)), "linear"),
        (series(specs.dino(1000)), "cosine"),
        (series(specs.dino(30)), "cosine"),
        (series(specs.dino(12)), "cosine"),
        (series(specs.dino(60), 30), "cosine"),  # its second half, numbered from 0
        (series(specs.dino(125_000)), "constant"),  # true, but nothing of it shows in 20 steps
        (STAIRS, "per-epoch"),
        (LATE_STAIRS, "per-epoch"),
        ([0.99] * 10 + [0.991] * 10, "per-epoch"),
        ([0.99] * 10 + [0.95] + [0.99] * 9, None),  # an outlier is no stair
        ([0.99] * 19 + [0.991], None),
        (series(specs.mean_teacher()), None),
        ([0.99, 0.991, 0.992], None),  # too few
        ([], None),
    ],
)
@pytest.mark.parametrize("rounded", [False, True], ids=["float64", "float32"])
def test_kind_of_exact_series(values, kind, rounded):
    assert kind_of(as_float32(values) if rounded else values, []) == kind


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("spec", "error", "kinds"),
    [
        (custom(0.996), 1e-7, {"constant"}),
        (custom(0.996), 1e-4, {"constant"}),
        (specs.ijepa(9000), 1e-7, {"linear"}),
        (specs.ijepa(300), 1e-6, {"linear"}),
        (specs.dino(300), 1e-6, {"cosine"}),
        (specs.ijepa(9000), 1e-6, {None, "linear"}),  # slope 4e-7: on the edge, never called a cosine
        (specs.ijepa(9000), 1e-4, {"constant"}),  # no change is visible
    ],
)
def test_kind_of_noisy_series(spec, error, kinds, seed):
    assert kind_of(noisy(series(spec), error, seed), [error] * 20) in kinds


@pytest.mark.parametrize("seed", range(5))
def test_stairs_are_seen_through_noise_and_not_invented_by_it(seed):
    assert kind_of(noisy(STAIRS, 5e-5, seed), [5e-5] * 20) == "per-epoch"
    assert kind_of(noisy([0.99] * 20, 1e-3, seed), [1e-3] * 20) == "constant"


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_said_when_the_errors_are_stated_ten_times_too_small(seed):
    assert kind_of(noisy([0.99] * 20, 1e-5, seed), [1e-6] * 20) is None


def test_far_from_the_start_a_line_and_a_cosine_cannot_be_told_apart():
    places = list(range(2000, 2020))
    for spec in (specs.ijepa(9000), specs.dino(9000)):
        assert kind_of(series(spec, 2000), [1e-7] * 20, places) is None
    assert kind_of([0.99] * 20, [1e-7] * 20, places) == "constant"


def test_values_without_a_number_are_left_out():
    values = series(specs.ijepa(9000))
    assert kind_of([math.nan, *values[1:]], [1e-8] * 19 + [math.inf]) == "linear"


# ------------------------------------------------------------------ nearest


def test_nearest_names_the_method_that_was_run():
    for name in PUBLISHED:
        spec = named(name, total_steps=100_000)
        order = sorted(spec.orders)[0]
        matches = nearest(series(spec), range(20), order=order, total_steps=100_000)
        assert len(matches) == len(PUBLISHED)
        best = {match.spec.name for match in matches if match.distance <= matches[0].distance + 1e-3}
        assert matches[0].distance == pytest.approx(0.0, abs=1e-9)
        assert name in best
        assert [match.distance for match in matches] == sorted(match.distance for match in matches)


def test_nearest_says_it_in_words():
    lines = [match.says for match in nearest([0.99] * 20, range(20), order="A", total_steps=None)]
    assert re.search(
        r"constant 0\.990; byol prescribes cosine from 0\.99 \(also published: 0\.996, 0\.97\) to 1 \(.*start.*\); "
        r"order A as prescribed$",
        lines[0],
    )
    assert any(re.search(r"constant 0\.990; moco-v3 prescribes constant 0\.99; order A .*B'$", line) for line in lines)
    (first, *_) = nearest(series(specs.ijepa(100)), range(20), order=None, total_steps=100)
    assert re.search(r"linear from 0\.9960 to 0\.9968; ijepa prescribes linear from 0\.996 to 1; order not", first.says)


def test_distance_is_the_ratio_of_the_shares_plus_half_for_the_order():
    match = {one.spec.name: one.distance for one in nearest([0.998] * 20, range(20), order="C", total_steps=None)}
    assert match["moco"] == pytest.approx(math.log(2) + 0.5)
    assert match["dino"] == pytest.approx(math.log(2) + 0.5)  # a cosine looks constant at its start
    assert match["ijepa"] == pytest.approx(math.log(2) + 0.5 + 0.05)  # a line does not


def test_the_kind_decides_between_equal_values():
    names = [m.spec.name for m in nearest(series(specs.ijepa(5000)), range(20), order="A", total_steps=5000)]
    assert names[0] == "ijepa"
    names = [m.spec.name for m in nearest(series(specs.dino(5000)), range(20), order="A", total_steps=5000)]
    assert names[:3] == ["byol", "dino", "ibot"]


@pytest.mark.parametrize(
    ("measured", "steps", "total"),
    [
        ([], [], None),
        ([math.nan, math.inf], [0, 1], 100),
        ([None, 0.99], [0, 1], 100),
        ([0.99], [0], 0),
        ([0.99], [-5], 100),
        ([1.5, -3.0, 1.0, 0.0, 1e200], [0, 0, 0, 7, 3], 3),
        ([1.0] * 30, [4] * 30, "many"),
        ([0.9, 0.9, 0.9], [0], 100),
    ],
)
def test_nearest_never_raises(measured, steps, total):
    matches = nearest(measured, steps, order="inside-step", total_steps=total)
    usable = any(isinstance(value, float) and math.isfinite(value) for value in measured)
    assert bool(matches) == usable


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=12),
    st.lists(st.integers(-3, 10**6), max_size=12),
    st.sampled_from(["A", "B", "C", "", None]),
    st.none() | st.integers(-2, 10**6),
)
@settings(max_examples=25, deadline=None)
def test_nearest_is_deterministic_on_odd_input(measured, steps, order, total):
    once = nearest(measured, steps, order=order, total_steps=total)
    assert once == nearest(measured, steps, order=order, total_steps=total)
