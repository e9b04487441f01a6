"""The reader of compiled programs counts what small programs, written by hand, move."""

import textwrap

import pytest

pytest.importorskip("optax")

from benchmarks.planned import hlo, network, report, traffic


def program(text: str) -> hlo.Program:
    return hlo.read(textwrap.dedent(text))


def kernel_bytes(text: str) -> dict[str, int]:
    """The bytes that each kernel moves, all its runs together."""
    read = program(text)
    return {
        k.instruction.name: k.times * traffic.bytes_moved(read, k)
        for k in traffic.kernels(read)
    }


def test_kernel_reads_its_operands_and_writes_its_results():
    text = """\
        HloModule m, is_scheduled=true

        ENTRY %main (x: f32[8], y: bf16[8]) -> (f32[8], pred[]) {
          %x = f32[8]{0:T(128)} parameter(0)
          %y = bf16[8]{0:T(8,128)(2,1)} parameter(1)
          %view = bf16[2,4]{1,0} bitcast(%y)
          %two = (f32[8]{0}, /*index=1*/pred[]) custom-call(%x, %view)
          %z = f32[8]{0} get-tuple-element(%two), index=0
          ROOT %end = (f32[8]{0}, pred[]) tuple(%z, %z)
        }
        """
    assert kernel_bytes(text) == {"two": 32 + 16 + 32 + 1}
    read = program(text)
    assert traffic.moved(read) == 81
    assert traffic.passes(read, 32) == 1
    assert traffic.passes(read, 34) == 0


def test_array_on_the_chip_costs_nothing():
    text = """\
        ENTRY %main (x: f32[64]) -> f32[64] {
          %x = f32[64]{0:T(128)} parameter(0)
          %start = (f32[64]{0:T(128)S(1)}, f32[64]{0}, u32[]{:S(2)}) copy-start(%x)
          %near = f32[64]{0:T(128)S(1)} copy-done(%start)
          ROOT %far = f32[64]{0:T(128)} negate(%near)
        }
        """
    assert kernel_bytes(text) == {"start": 256, "far": 256}


def test_gather_reads_only_what_it_takes():
    text = """\
        %fused (a: f32[100,10], i: s32[5]) -> f32[5] {
          %a = f32[100,10]{1,0} parameter(0)
          %i = s32[5]{0} parameter(1)
          %flat = f32[1000]{0} bitcast(%a)
          %taken = f32[5]{0} gather(%flat, %i), offset_dims={}
          ROOT %n = f32[5]{0} negate(%taken)
        }

        ENTRY %main (x: f32[100,10], i: s32[5]) -> f32[5] {
          %x = f32[100,10]{1,0} parameter(0)
          %i = s32[5]{0} parameter(1)
          ROOT %f = f32[5]{0} fusion(%x, %i), kind=kLoop, calls=%fused
        }
        """
    assert kernel_bytes(text) == {"f": 20 + 20 + 20}


IN_PLACE = """\
    %add (p: f32[], q: f32[]) -> f32[] {{
      %p = f32[] parameter(0)
      %q = f32[] parameter(1)
      ROOT %sum = f32[] add(%p, %q)
    }}

    %fused (a: f32[1000], i: s32[4], u: f32[4]) -> f32[1000] {{
      %a = f32[1000]{{0}} parameter(0)
      %i = s32[4]{{0}} parameter(1)
      %u = f32[4]{{0}} parameter(2)
      %zero = f32[] constant(0)
      %zeros = f32[1000]{{0}} broadcast(%zero), dimensions={{}}
      ROOT %new = f32[1000]{{0}} scatter({operand}, %i, %u), to_apply=%add
    }}

    ENTRY %main (x: f32[1000], i: s32[4], u: f32[4]) -> f32[1000] {{
      %x = f32[1000]{{0}} parameter(0)
      %i = s32[4]{{0}} parameter(1)
      %u = f32[4]{{0}} parameter(2)
      ROOT %f = f32[1000]{{0}} fusion(%x, %i, %u), kind=kInput, calls=%fused
    }}
    """


def test_scatter_costs_what_it_updates():
    # The updates are read, as are their places and what was there before.
    assert kernel_bytes(IN_PLACE.format(operand="%a")) == {"f": 4 * 16}


def test_scatter_into_a_new_array_writes_all_of_it():
    # The unused operand is read by nothing.
    assert kernel_bytes(IN_PLACE.format(operand="%zeros")) == {"f": 2 * 16 + 4000}


def test_slice_update_costs_what_it_writes():
    text = """\
        ENTRY %main (x: f32[1000], u: f32[10], i: s32[]) -> f32[1000] {
          %x = f32[1000]{0} parameter(0)
          %u = f32[10]{0} parameter(1)
          %i = s32[] parameter(2)
          ROOT %new = f32[1000]{0} dynamic-update-slice(%x, %u, %i)
        }
        """
    assert kernel_bytes(text) == {"new": 40 + 4 + 40}


LOOP = """\
    %condition (s: (s32[], f32[10])) -> pred[] {{
      %s = (s32[], f32[10]{{0}}) parameter(0)
      %i = s32[] get-tuple-element(%s), index=0
      %bound = s32[] constant({bound})
      ROOT %less = pred[] compare(%i, %bound), direction=LT
    }}

    %body (s: (s32[], f32[10])) -> (s32[], f32[10]) {{
      %s = (s32[], f32[10]{{0}}) parameter(0)
      %i = s32[] get-tuple-element(%s), index=0
      %x = f32[10]{{0}} get-tuple-element(%s), index=1
      %y = f32[10]{{0}} negate(%x)
      %sum = f32[10]{{0}} all-reduce(%y), channel_id=1, to_apply=%add
      ROOT %end = (s32[], f32[10]{{0}}) tuple(%i, %sum)
    }}

    ENTRY %main (s: (s32[], f32[10])) -> (s32[], f32[10]) {{
      %s = (s32[], f32[10]{{0}}) parameter(0)
      ROOT %w = (s32[], f32[10]{{0}}) while(%s), condition=%condition, body=%body{known}
    }}
    """


@pytest.mark.parametrize(
    ("bound", "known"),
    [(7, ""), (100, ', backend_config={"known_trip_count":{"n":"7"}}')],
    ids=["by its condition", "as the compiler says"],
)
def test_loop_counts_as_often_as_it_runs(bound, known):
    text = LOOP.format(bound=bound, known=known)
    assert kernel_bytes(text) == {"y": 7 * 80, "sum": 7 * 80}
    [found] = network.collectives(program(text))
    assert (found.kind, found.times, found.in_loop) == ("all-reduce", 7, True)
    assert found.bytes == 2 * 40


def test_conditional_counts_as_its_dearest_branch():
    text = """\
        %none (x: f32[10]) -> f32[10] {
          ROOT %x = f32[10]{0} parameter(0)
        }

        %dear (x: f32[10]) -> f32[10] {
          %x = f32[10]{0} parameter(0)
          ROOT %y = f32[10]{0} negate(%x)
        }

        ENTRY %main (i: s32[], x: f32[10]) -> f32[10] {
          %i = s32[] parameter(0)
          %x = f32[10]{0} parameter(1)
          ROOT %c = f32[10] conditional(%i, %x, %x), branch_computations={%none, %dear}
        }
        """
    assert kernel_bytes(text) == {"y": 80}


def test_asynchronous_start_counts_the_results_alone():
    text = """\
        ENTRY %main (x: bf16[8,4]) -> bf16[32,4] {
          %x = bf16[8,4]{1,0} parameter(0)
          %start = (bf16[8,4]{1,0}, bf16[32,4]{1,0}) all-gather-start(%x)
          ROOT %all = bf16[32,4]{1,0} all-gather-done(%start)
        }
        """
    assert kernel_bytes(text) == {"start": 64 + 256}
    [found] = network.collectives(program(text))
    assert (found.kind, found.bytes, str(found.array)) == (
        "all-gather",
        256,
        "bf16[32,4]",
    )


def test_slice_of_an_all_reduce_in_a_fusion_is_a_reduce_scatter():
    text = """\
        %fused (x: f32[64], i: s32[]) -> f32[16] {
          %x = f32[64]{0} parameter(0)
          %i = s32[] parameter(1)
          %sum = f32[64]{0} all-reduce(%x), channel_id=1, to_apply=%add
          ROOT %part = f32[16]{0} dynamic-slice(%sum, %i), dynamic_slice_sizes={16}
        }

        ENTRY %main (x: f32[64], i: s32[]) -> f32[16] {
          %x = f32[64]{0} parameter(0)
          %i = s32[] parameter(1)
          ROOT %f = f32[16]{0} fusion(%x, %i), kind=kCustom, calls=%fused
        }
        """
    [found] = network.collectives(program(text))
    assert (found.kind, found.bytes, found.in_loop) == ("reduce-scatter", 256, False)


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        hlo.read("HloModule m")


def result(ours, **others):
    def figures(temporaries, moved, dtype="float32"):
        return {"temporaries": temporaries, "moved": moved, "dtype": dtype, "passes": 1}

    named = {"jaxloss": ours, **others}
    return {
        "row": "a loss",
        "dtype": "bfloat16",
        "largest_input": 1000,
        "programs": {name: figures(*given) for name, given in named.items()},
    }


def test_excess_is_over_the_best_peer_of_each_figure():
    row = result((15, 2100), first=(0, 2095), second=(900, 2000))
    assert report.excess(row) == {"temporaries": 15, "moved": 100}
    assert report.excess(result((10, 2010), optax=(0, 2000))) == {}
    half = result((15, 2100), optax=(0, 2000, "bfloat16"), wide=(15, 2100))
    assert report.excess(half) == {"temporaries": 15, "moved": 100}
    assert report.excess(half, precise=True) == {}
    assert "optax (less precise)" in report.lines(half)


def test_peer_that_does_not_compile_has_a_line_and_no_figures():
    row = result((15, 2100), optax=(0, 2000))
    row["programs"]["other"] = {"failed": "ValueError: no"}
    assert report.best(row, "moved") == 2000
    assert "| a loss, bfloat16 | other | ValueError: no |" in report.lines(row)
