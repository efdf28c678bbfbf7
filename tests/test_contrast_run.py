"""A recipe whose comparisons are contrast pairs: labelled by provenance where the judge fails its gate (RLCD)."""

from pathlib import Path

from recipes import run_again, write_recipe

from constitutional.audit.current import open_view
from constitutional.records import Comparison, Preference

SETS = (
    "stages=[sample, gate, judge, label]",
    "sample.contrast=true",
    "gate={fallback: provenance, min_order_consistency: 1.0}",
)


def test_contrast_pairs_are_drawn_and_the_answer_under_the_principle_is_preferred(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    constitution = tmp_path / "in" / "constitution.yaml"
    text = constitution.read_text()
    for name in ("kind", "honest", "safe"):
        request = f"    comparison_request: Which response is more {name}?\n"
        text = text.replace(request, request + f"    negated_comparison_request: Which response is less {name}?\n")
    constitution.write_text(text)
    model = tmp_path / "in" / "model.yaml"
    model.write_text(
        "rules:\n"
        '  - {anywhere: "response is more", reply: ["yes {n}."]}\n'
        '  - {anywhere: "response is less", reply: ["no {n}."]}\n'
        "likelihood:\n  - {prefer_option: A, p: 0.9}\n"  # a pure position judge: no label may rest on its word
    )
    run_again(recipe, tmp_path / "run", *SETS)
    with open_view(tmp_path / "run") as view:
        pairs = view.rows("sample", "data.jsonl", Comparison)
        labels = view.rows("label", "data.jsonl", Preference)
    assert len(pairs) > 5 and {c.origin for c in pairs} == {"negation"}
    assert {c.principle for c in pairs} == {"kind@1.0.0", "honest@1.0.0", "safe@1.0.0"}
    assert all(c.a.startswith("yes") and c.b.startswith("no") for c in pairs)
    assert [(x.comparison_id, x.p_a, x.rule) for x in labels] == [(c.id, 1.0, "provenance") for c in pairs]
