"""What benchmarks say of their bars, and the arithmetic of the simulated writer; no measuring here."""

import random
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from engine_cases import verdict


def test_a_missed_bar_is_told_and_ends_the_program_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    met = [("fast", 4.2, ">=", 4.0), ("small", 0.03, "<=", 0.03)]
    verdict(met, check=True)
    verdict([*met, ("wrong", 5.01, "<=", 5.0)], check=False)
    said = capsys.readouterr().out.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in said] == ["met", "met", "met", "met", "MISSED"]
    assert said[-1] == "bar: wrong: 5.01, wanted <= 5: MISSED"
    for bars in ([("slow", 3.9, ">=", 4.0), *met], [("unknown", float("nan"), ">=", 4.0)], []):
        with pytest.raises(SystemExit) as ended:
            verdict(bars, check=True)
        assert ended.value.code == 1


@pytest.mark.parametrize("check", [False, True])
def test_overhead_without_a_run_is_skipped_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], check: bool
) -> None:
    import overhead

    monkeypatch.setattr(overhead, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["overhead.py", *(["--check"] if check else [])])
    with pytest.raises(SystemExit) if check else nullcontext():  # nothing measured is no bar met
        overhead.main()
    assert capsys.readouterr().out == f"skipped: no run at {tmp_path / 'runs' / 'quickstart'}: make demo first\n"


def test_the_ideal_writer_is_held_up_by_its_workers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import scale_out

    delays = [random.Random(i).choice((1.0, 2.0, 5.0)) for i in range(40)]
    monkeypatch.setattr(scale_out, "WORKERS", 3)
    monkeypatch.setattr(scale_out, "delay_of", lambda index, mean: mean * delays[index])
    monkeypatch.setattr("constitutional.parallel.AHEAD", 1)  # whoever is free begins the next
    busy: dict[int, float] = {}
    done, now, waiting = [0.0] * 40, 0.0, list(range(40))
    while waiting or busy:  # in steps of half a second
        busy = {index: end for index, end in busy.items() if end > now}
        while waiting and len(busy) < 3:
            index = waiting.pop(0)
            busy[index] = done[index] = now + 0.5 * delays[index]
        now += 0.5
    assert scale_out.ideal(40, 0.5) == [max(done[: i + 1]) for i in range(40)]


def test_the_steady_rate_leaves_start_and_end_out() -> None:
    import scale_out

    even = [10 + 0.5 * i for i in range(100)]
    assert scale_out.steady(even) == pytest.approx(scale_out.CHUNK / 0.5)
    assert scale_out.steady([*even[:99], 1000.0]) == scale_out.steady(even)  # a last chunk that is late
    assert scale_out.steady([i / 2 if i < 50 else i for i in range(100)]) < scale_out.steady(even)


def test_products_of_linear_layers_are_counted_and_nothing_else() -> None:
    import torch
    from demo_limit import linear_layers
    from engine_cases import matrices
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    net = LlamaForCausalLM(LlamaConfig(vocab_size=320, num_hidden_layers=2, **shape))
    weights, head = sum(matrix.numel() for matrix in matrices(net)), net.lm_head.weight.numel()
    ids = torch.arange(150).view(3, 50)
    with linear_layers() as counter, torch.inference_mode():
        net(ids)
    assert counter.get_total_flops() == 2 * 150 * (weights + head)
    with linear_layers() as counter:
        net(ids, labels=ids).loss.backward()
    assert counter.get_total_flops() == 3 * 2 * 150 * (weights + head)
    with linear_layers() as counter:  # a product in place, as in TRL's fused head; attention in another form
        torch.zeros(4, 5).addmm_(torch.ones(4, 6), torch.ones(6, 5))
        torch.bmm(torch.ones(2, 3, 4), torch.ones(2, 4, 3))
    assert counter.get_total_flops() == 2 * 4 * 6 * 5
