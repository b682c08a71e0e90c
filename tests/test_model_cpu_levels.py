"""Libraries built ahead: which one a processor gets, and that each computes as the others do."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.attention import Rows
from model.checkpoints.load import load
from model.cpu import library
from model.cpu.build import build, find_compiler
from model.cpu.levels import LEVELS, levels_of
from model.decoder import Decoder
from model.janus import Janus
from model.params import SamplingParams
from model.quantization import Quantization
from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage
from model.sampling import guide
from tests.other_geometry import LONG, WIDE, with_geometry
from tests.tools import needs_compiler

HERE = [level.name for level in levels_of(platform.machine(), Path("/proc/cpuinfo").read_text())]
CPU = torch.device("cpu")

# /proc/cpuinfo's flags of real machines, after those that every x86-64 processor has
CORE_2_DUO_E8400 = (
    "constant_tsc arch_perfmon pebs bts pni dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cx16 xtpr pdcm sse4_1 lahf_lm "
    "tpr_shadow vnmi flexpriority"
)
RYZEN_2700X_IN_A_VM_THAT_HIDES_FMA = (
    "mmxext fxsr_opt rdtscp lm constant_tsc rep_good nopl nonstop_tsc cpuid extd_apicid tsc_known_freq pni pclmulqdq "
    "ssse3 cx16 sse4_1 sse4_2 x2apic movbe popcnt aes xsave avx rdrand hypervisor lahf_lm cmp_legacy cr8_legacy abm "
    "sse4a misalignsse 3dnowprefetch cpb ssbd vmmcall fsgsbase avx2 rdseed clflushopt arat"
)
XEON_E5_2690_V4 = (
    "pdpe1gb rdtscp lm constant_tsc arch_perfmon pebs bts rep_good nopl xtopology nonstop_tsc aperfmperf eagerfpu pni "
    "pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 sdbg fma cx16 xtpr pdcm pcid dca sse4_1 sse4_2 x2apic movbe "
    "popcnt tsc_deadline_timer aes xsave avx f16c rdrand lahf_lm abm 3dnowprefetch epb cat_l3 cdp_l3 intel_ppin "
    "intel_pt ssbd ibrs ibpb stibp tpr_shadow vnmi flexpriority ept vpid fsgsbase tsc_adjust bmi1 hle avx2 smep bmi2 "
    "erms invpcid rtm cqm rdt_a rdseed adx smap xsaveopt cqm_llc cqm_occup_llc cqm_mbm_total cqm_mbm_local dtherm ida"
)
XEON_PHI_7210 = (
    "pdpe1gb rdtscp lm constant_tsc arch_perfmon pebs bts rep_good nopl xtopology nonstop_tsc ring3mwait aperfmperf pni "
    "pclmulqdq dtes64 monitor ds_cpl vmx est tm2 ssse3 fma cx16 xtpr pdcm sse4_1 sse4_2 x2apic movbe popcnt "
    "tsc_deadline_timer aes xsave avx f16c rdrand lahf_lm abm 3dnowprefetch epb tpr_shadow vnmi flexpriority ept vpid "
    "fsgsbase tsc_adjust bmi1 avx2 smep bmi2 erms avx512f rdseed adx avx512pf avx512er avx512cd xsaveopt dtherm ida"
)
XEON_GOLD_6140 = (
    "pdpe1gb rdtscp lm constant_tsc art arch_perfmon pebs bts rep_good nopl xtopology nonstop_tsc aperfmperf eagerfpu "
    "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 sdbg fma cx16 xtpr pdcm pcid dca sse4_1 sse4_2 x2apic "
    "movbe popcnt tsc_deadline_timer xsave avx f16c rdrand lahf_lm abm 3dnowprefetch epb cat_l3 cdp_l3 intel_ppin "
    "fsgsbase tsc_adjust bmi1 hle avx2 smep bmi2 erms invpcid rtm cqm mpx rdt_a avx512f avx512dq rdseed adx smap "
    "clflushopt clwb avx512cd avx512bw avx512vl xsaveopt xsavec xgetbv1"
)


CORE_I5_1240P = (
    "pdpe1gb rdtscp lm constant_tsc art arch_perfmon pebs bts rep_good nopl xtopology nonstop_tsc cpuid aperfmperf "
    "tsc_known_freq pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 sdbg fma cx16 xtpr pdcm pcid sse4_1 sse4_2 "
    "x2apic movbe popcnt tsc_deadline_timer aes xsave avx f16c rdrand lahf_lm abm 3dnowprefetch cpuid_fault epb ssbd ibrs "
    "ibpb stibp ibrs_enhanced fsgsbase tsc_adjust bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb "
    "intel_pt sha_ni xsaveopt xsavec xgetbv1 xsaves split_lock_detect avx_vnni dtherm ida arat pln pts"
)


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        (CORE_2_DUO_E8400, None),  # no SSE 4.2
        (RYZEN_2700X_IN_A_VM_THAT_HIDES_FMA, "x86-64-v2"),  # AVX2, but no FMA
        (XEON_E5_2690_V4, "x86-64-v3"),
        (XEON_PHI_7210, "x86-64-v3"),  # AVX-512, but not all of it
        (CORE_I5_1240P, "x86-64-v3-vnni"),
        (XEON_GOLD_6140, "x86-64-v4"),
        (f"{XEON_GOLD_6140} avx512_vnni", "x86-64-v4-vnni"),  # as the Xeon Gold 6240 after it
        (f"{XEON_GOLD_6140} avx512_vnni amx_bf16 amx_tile amx_int8", "x86-64-v4-amx"),  # as the Xeon Gold 6430
    ],
)
def test_a_processor_gets_the_highest_level_that_it_has(flags: str, best: str | None) -> None:
    names = [level.name for level in levels_of("x86_64", f"processor\t: 0\nflags\t\t: fpu sse sse2 {flags}\nbugs\t:\n")]
    below = {
        "x86-64-v4-amx": ["x86-64-v4-vnni", "x86-64-v4", "x86-64-v3", "x86-64-v2"],
        "x86-64-v4-vnni": ["x86-64-v4", "x86-64-v3", "x86-64-v2"],
        "x86-64-v4": ["x86-64-v3", "x86-64-v2"],
        "x86-64-v3-vnni": ["x86-64-v3", "x86-64-v2"],
        "x86-64-v3": ["x86-64-v2"],
        "x86-64-v2": [],
    }
    assert names == ([best, *below[best]] if best else [])


def test_an_arm_processor_gets_no_library_for_x86() -> None:
    """Features of a Cortex-A57; a 32-bit kernel has another architecture."""
    cpuinfo = "processor\t: 0\nFeatures\t: fp asimd aes pmull sha1 sha2 crc32\n"
    assert [level.name for level in levels_of("aarch64", cpuinfo)] == ["armv8-a"]
    assert levels_of("armv7l", cpuinfo) == []
    assert levels_of("x86_64", "") == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")
def test_this_processor_has_the_levels_that_glibc_finds() -> None:
    """glibc's loader asks the processor itself, for folders glibc-hwcaps/x86-64-v2 and so on."""
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    text = subprocess.run([loader, "--help"], capture_output=True, text=True, check=True).stdout
    found = [line.split()[0] for line in text.splitlines() if "x86-64-v" in line and "supported" in line]
    assert found == [level for level in HERE if not level.endswith(("-vnni", "-amx"))]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CDLL]:
    """The libraries that this processor can run, by level."""
    compiler = find_compiler()
    assert compiler is not None
    files = build(compiler, tmp_path_factory.mktemp("built"))
    assert {file.stem for file in files} == {one.name for one in LEVELS if one.architecture == platform.machine()}
    return {file.stem: library.open_library(file) for file in files if file.stem in HERE}


@pytest.fixture
def janus(small_folder: Path) -> Janus:
    return with_geometry(
        load(small_folder, device="cpu"),
        intermediate_size=LONG,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=WIDE,
    )


def logits_of(decoder: Decoder, prompts: list[list[int]]) -> Tensor:
    """Logits [2, rows, V] of two steps."""
    prefixes = decoder.prefill(prompts)
    cache = decoder.cache(len(prompts), 40)
    for row, prefix in enumerate(prefixes):
        cache.begin(row, prefix)
    rows = Rows.of(range(len(prompts)), [prefix.length for prefix in prefixes], CPU)
    codes = torch.arange(len(prompts))
    with torch.inference_mode():
        return torch.stack([decoder.step(codes + step, rows, cache).clone() for step in range(2)])


@needs_compiler
@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_logits_of_each_level_equal_pytorchs(
    libraries: dict[str, CDLL],
    level: str,
    quantization: Quantization | None,
    janus: Janus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = [[1, *range(5, 8 + row)] for row in range(13)]
    plain = logits_of(Decoder(janus, native=False), prompts)
    monkeypatch.setattr("model.decoder.native_library", lambda: libraries[level])
    decoder = Decoder(janus, quantization=quantization)
    assert decoder.is_native
    if quantization:  # against the same integers, by the library compiled for this processor
        monkeypatch.setattr("model.decoder.native_library", library.native_library)
        plain = logits_of(Decoder(janus, quantization="int8"), prompts)
    # where sums of floats differ in their last bits, a few inputs are rounded to another integer, and keys to another bfloat16
    error = 5e-3 if quantization else 5e-5
    torch.testing.assert_close(logits_of(decoder, prompts), plain, rtol=1e-5, atol=error)


needs_tiles = pytest.mark.skipif("x86-64-v4-amx" not in HERE, reason="this processor has no tiles (AMX)")


@needs_tiles
@needs_compiler
@pytest.mark.parametrize("rows", [1, 2, 13, 16, 17, 33])
def test_tiles_and_vectors_compute_the_same_bits(
    libraries: dict[str, CDLL], rows: int, janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[1, *range(5, 8 + row % 9)] for row in range(rows)]
    logits = []
    for level, together in (("x86-64-v4-amx", 4), ("x86-64-v4-vnni", 2)):
        assert libraries[level].integers_together() == together
        monkeypatch.setattr("model.decoder.native_library", lambda level=level: libraries[level])
        logits.append(logits_of(Decoder(janus, quantization="int8"), prompts))
    assert torch.equal(*logits)


@needs_tiles
@needs_compiler
def test_a_process_that_gets_no_tiles_uses_vectors(
    libraries: dict[str, CDLL], small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux refuses tiles to a process with a signal stack that is too small for them."""
    code = f"""
import ctypes, sys
from pathlib import Path
import torch
from model.cpu import library
stack = ctypes.create_string_buffer(2048)
fields = (ctypes.c_uint64 * 3)(ctypes.addressof(stack), 0, len(stack))  # stack_t: address, flags, size
assert ctypes.CDLL(None).sigaltstack(fields, None) == 0
native = library.open_library(Path({libraries["x86-64-v4-amx"]._name!r}))
assert native.integers_together() == 2
import model.decoder
from model.checkpoints.load import load
model.decoder.native_library = lambda: native
decoder = model.decoder.Decoder(load({str(small_folder)!r}, device="cpu"), quantization="int8")
print(decoder.prefill([[1, 5, 6]])[0].logits.tolist())
"""
    root = Path(__file__).parent.parent
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout
    monkeypatch.setattr("model.decoder.native_library", lambda: libraries["x86-64-v4-amx"])
    by_tiles = Decoder(load(small_folder, device="cpu"), quantization="int8").prefill([[1, 5, 6]])[0].logits
    assert json.loads(printed) == by_tiles.tolist()


@needs_compiler
@pytest.mark.parametrize("level", HERE)
def test_codes_of_each_level_equal_those_sampled_by_pytorch(
    libraries: dict[str, CDLL], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same logits, same codes: 64 images of every setting, 30 codes each."""
    ways = [
        SamplingParams(guidance_scale=g, temperature=t, top_k=k, top_p=p)
        for g in (1, 5)
        for t in (0, 0.7, 1, 2)
        for k in (0, 40)
        for p in (0.3, 0.9, 0.999, 1)
    ]
    images = [
        SampledImage((2 * number, 2 * number + 1)[: 1 + one.guided], (1, 1)[: 1 + one.guided], one, seed=number)
        for number, one in enumerate(ways)
    ]
    rows = [image.rows[0] for image in images]
    generator = torch.Generator().manual_seed(0)
    steps = [3 * torch.randn(sum(1 + one.guided for one in ways), 1283, generator=generator) for _ in range(30)]

    def sampled(native: bool) -> Tensor:
        sampler = Sampler(rows=2 * len(ways), tokens=30, vocabulary=1283, grid=6, device=CPU, native=native)
        sampler.begin(rows)
        batch = sampler.batch(images)
        for logits in steps:
            batch.sample(logits)
        return sampler.codes(rows)

    monkeypatch.setattr("model.sampler.sampler.native_library", lambda: libraries[level])
    assert torch.equal(sampled(native=True), sampled(native=False))


@needs_compiler
@pytest.mark.parametrize("level", HERE)
def test_guidance_of_each_level_rounds_twice_like_the_reference(
    libraries: dict[str, CDLL], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code j + 32 is unguided at the guided logit of code j, so the best codes tie and the lower one wins.

    A level with fused multiply-add would round once, and half of the ties would be broken.
    """
    monkeypatch.setattr("model.sampler.sampler.native_library", lambda: libraries[level])
    params = SamplingParams(guidance_scale=3.3, temperature=0)
    pairs = torch.randn(64, 2, 32, generator=torch.Generator().manual_seed(0))
    guided = guide(pairs[:, 0], pairs[:, 1], 3.3)[:, None].expand(-1, 2, -1)
    logits = torch.cat([pairs, guided], 2).flatten(0, 1)
    sampler = Sampler(rows=128, tokens=1, vocabulary=64, grid=1, device=CPU)
    sampler.begin(range(128))
    batch = sampler.batch([SampledImage((row, row + 1), (1, 1), params, 0) for row in range(0, 128, 2)])
    batch.sample(logits)
    assert (sampler.codes(range(0, 128, 2)) < 32).all()


@pytest.fixture
def _no_library_loaded() -> Iterator[None]:
    """Forget the library before and after a test."""
    library.native_library.cache_clear()
    yield
    library.native_library.cache_clear()


@needs_compiler
@pytest.mark.usefixtures("_no_library_loaded")
def test_a_library_built_ahead_is_taken_although_there_is_a_compiler(
    libraries: dict[str, CDLL], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = Path(libraries[HERE[0]]._name).parent
    monkeypatch.setattr(library, "_BUILT", built)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = library.native_library()
    assert found is not None
    assert Path(found._name) == built / f"{HERE[0]}.so"
    assert list(tmp_path.iterdir()) == []


@needs_compiler
@pytest.mark.usefixtures("_no_library_loaded")
def test_a_library_that_does_not_load_is_passed_over_for_the_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For example one that needs a newer C library than this system has."""
    monkeypatch.setattr(library, "_BUILT", tmp_path)
    (tmp_path / f"{HERE[0]}.so").write_bytes(b"no library")
    found = library.native_library()
    assert found is not None
    assert not Path(found._name).is_relative_to(tmp_path)


def test_building_needs_nothing_but_the_standard_library() -> None:
    """The wheel's build hook imports it where nothing is installed."""
    code = "import sys; sys.path.insert(0, '.'); import model.cpu.build"
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-IS", "-c", code], cwd=root, check=True)
