"""What users type and what Hydra is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ponder.cli.shorthand import DEFAULT_VARIANTS, parse_experiment, repeated_flags, rewrite
from ponder.config.errors import UserError
from ponder.config.spine import CONF, variant_names, with_own_variants


def typed(*words: str, conf: Path = CONF) -> list[str]:
    return rewrite(list(words), conf)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A configuration folder with two experiment files."""
    for group, name, text in [
        ("task", "add", ""), ("task", "text", ""),
        ("experiment", "digits", "# @package _global_\ndefaults:\n  - override /task: add\n"
         "  - override /variant: [think, blind]\n"),
        ("experiment", "long", "defaults:\n  - override /variant:\n      - think\n      - super\n"),
        ("experiment", "one", "defaults:\n  - override variant: think\n"),
        ("experiment", "bare", "trainer:\n  lr: 1.0\n"),
        ("experiment", "empty", ""),
        ("experiment", "broken", "defaults: [1\n"),
    ]:
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{name}.yaml").write_text(text)
    return tmp_path


# --- flags --------------------------------------------------------------------------------------


def test_nothing_typed_nothing_added() -> None:
    assert typed() == []
    assert typed("seed=1", "task.max=10") == ["seed=1", "task.max=10"]


def test_a_list_and_flags_mean_the_same() -> None:
    assert (typed("variant=[think,blind]") == typed("think=true", "blind=true")
            == typed("blind=1", "think=Yes") == ["variant=[think,blind]"])


@pytest.mark.parametrize("word, expected", [
    ("variant=think", "variant=[think]"),
    ("variant=[]", "variant=[]"),
    ("variant=", "variant=[]"),
    ("variant=[blind, think]", "variant=[think,blind]"),
    ("variant=think,blind", "variant=[think,blind]"),
    ("variant=[think,think]", "variant=[think]"),
])
def test_lists_in_any_order_and_shape(word: str, expected: str) -> None:
    assert typed(word) == [expected]


def test_false_flags_alone_remove_from_the_default() -> None:
    assert DEFAULT_VARIANTS == ("think", "fixed", "blind", "search")
    assert typed("search=false") == ["variant=[think,fixed,blind]"]
    assert typed("search=false", "blind=off") == ["variant=[think,fixed]"]


def test_each_job_of_a_sweep_over_tasks_has_the_variants_of_its_task() -> None:
    assert typed("-m", "task=add,chain") == ["-m", "task=add,chain"]
    assert typed("-m", "task=qa,qa") == ["-m", "variant=[think]", "task=qa,qa"]
    assert typed("-m", "task=add,qa", "variant=[think]") == ["-m", "variant=[think]", "task=add,qa"]
    assert typed("-m", "task=add,qa", "think=true") == ["-m", "variant=[think]", "task=add,qa"]
    for words, given, of_add, of_qa in (
            ([], "choice([own])", "think,fixed,blind,search", "think"),
            (["blind=false"], "choice([own,-blind])", "think,fixed,search", "think"),
            (["think=false"], "choice([own,-think])", "", ""),
            (["super=true,false"], "[own,+super],[own,-super]", None, None)):
        found = typed("-m", "task=add,qa", *words)
        assert found == ["-m", f"variant={given}", "task=add,qa"]
        for task, expected in (("add", of_add), ("qa", of_qa)):
            word = given.removeprefix("choice(").removesuffix(")")
            if expected is not None:
                assert with_own_variants([f"variant={word}", f"task={task}", "seed=1"]) == [
                    f"variant=[{expected}]", f"task={task}", "seed=1"]


def test_a_task_says_which_variants_it_has_where_none_is_typed(tmp_path: Path) -> None:
    assert rewrite(["task=qa"], CONF) == ["variant=[think]", "task=qa"]
    assert rewrite(["task=qa", "think=false"], CONF) == ["variant=[]", "task=qa"]
    assert rewrite(["task=add"], CONF) == ["task=add"]
    (tmp_path / "ponder.json").write_text("{}")  # a checkpoint brings its own
    words = ["task=qa", "action=evaluate", f"model.name={tmp_path}"]
    assert rewrite(words, CONF) == words


def test_a_true_flag_starts_from_nothing() -> None:
    assert typed("think=true", "blind=false") == ["variant=[think]"]


def test_without_think_nothing_is_left_but_what_is_typed() -> None:
    assert typed("think=false") == ["variant=[]"]
    assert typed("think=false", "blind=true") == ["variant=[blind]"]


def test_flags_change_a_typed_list_and_a_parsed_experiment() -> None:
    assert typed("variant=[think,fixed]", "blind=true", "fixed=false") == ["variant=[think,blind]"]
    assert typed("experiment=add_think_fixed", "clean=true", "fixed=false") == [
        "variant=[think,clean]", "task=add"]


def test_the_last_value_of_a_flag_counts_and_a_line_says_so() -> None:
    assert typed("blind=true", "blind=true", "think=true") == ["variant=[think,blind]"]
    assert typed("think=true", "blind=true", "blind=false") == ["variant=[think]"]
    assert repeated_flags(["blind=true", "think=true", "blind=true"]) == []
    note, = repeated_flags(["blind=true", "think=true", "blind=false"])
    assert note.startswith("blind=true blind=false: ")


@pytest.mark.parametrize(("word", "read"), [
    ("task.data=Bücher/ü.txt", "Bücher/ü.txt"), ("model.name=runs/lr=0.1/x", "runs/lr=0.1/x"),
    ("task.data=a (1).csv", "a (1).csv"), ("task.data=don't.txt", "don't.txt"),
    ("task.data=~/a.txt", "/home/me/a.txt"), ("+task.data=~/a=b.txt", "/home/me/a=b.txt"),
    ("task.data=x~y.txt", "x~y.txt"), ("task.data=a\\ü", "a\\ü"),
    ("trainer.lr=[1,2]", [1, 2]), ("trainer.lr=1e-3", 0.001), ("out='ü.csv'", "ü.csv")])
def test_paths_are_read_as_they_are_typed(word: str, read: object,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """By Hydra, which has no signs but those of ASCII names, and by a sweep each for itself."""
    monkeypatch.setenv("HOME", "/home/me")
    parser = OverridesParser.create()
    assert parser.parse_override(*typed(word)).value() == read
    if "[" not in word:
        found = parser.parse_override(typed("-m", f"{word},b.txt")[1])
        assert [*found.sweep_string_iterator()][1].strip('"') == "b.txt"


@pytest.mark.parametrize("word", ["trainer.lr=linaer(1, 0, 9)", "trainer={a:1}", "trainer.lr=${x}",
                                  'task.data="ü"', "trainer.lr=interval(0,1)", "a[0]", "-m"])
def test_what_has_a_meaning_is_left_to_hydra(word: str) -> None:
    assert typed(word) == [word]


@pytest.mark.parametrize("words, expected", [
    (["blind=true,false"], "variant=[think,fixed,blind,search],[think,fixed,search]"),
    (["think=true", "blind=true,false"], "variant=[think,blind],[think]"),
    (["think=true", "blind=true,false", "fixed=false,true"],
     "variant=[think,blind],[think],[think,fixed,blind],[think,fixed]"),
    (["think=true,false"], "variant=[think,fixed,blind,search],[]"),
    (["variant=[think],[think,blind]"], "variant=[think],[think,blind]"),
    (["variant=[think],[think,blind]", "fixed=true"],
     "variant=[think,fixed],[think,fixed,blind]"),
    (["variant=think,blind"], "variant=[think],[blind]"),
])
def test_sweeps(words: list[str], expected: str) -> None:
    assert typed("-m", *words) == ["-m", expected]
    assert typed(*words, "--multirun") == ["--multirun", expected]


@pytest.mark.parametrize("word, line", [
    ("blind=true,false", "blind=true,false: found 2 values; legal: one, or -m in front for a sweep "
     "over them"),
    ("experiment=add_think,add_normal", "experiment=add_think,add_normal: found 2 values; legal: "
     "one, or -m in front for a sweep over them"),
    ("variant=[think],[blind]", "variant=[think],[blind]: found 2 values; legal: one, or -m in "
     "front for a sweep over them"),
    ("think=maybe", "think=maybe: found 'maybe'; legal: true or false"),
    ("clean=", "clean=: found ''; legal: true or false"),
    ("variant=[thnk]", "variant=[thnk]: found 'thnk' (did you mean think?); legal: a list of "
     f"{', '.join(variant_names())}"),
    ("variant=null", "variant=null: found 'null'; legal: a list of "
     f"{', '.join(variant_names())}"),
    ("variant=[think", "variant=[think: found brackets that do not match; legal: a list such as "
     "[think,blind]"),
    ("variant=[think]]", "variant=[think]]: found brackets that do not match; legal: a list such "
     "as [think,blind]"),
])
def test_refused_words(word: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        typed(word)
    assert str(error.value) == line


# --- experiments --------------------------------------------------------------------------------


@pytest.mark.parametrize("name, expected", [
    ("add_normal", ("add", [])),
    ("add_think", ("add", ["think"])),
    ("add_think_fixed", ("add", ["think", "fixed"])),
    ("add_think_fixed_blind_super_clean", ("add", ["think", "fixed", "blind", "super", "clean"])),
    ("add_think_fixed_blind_super_clean_search",
     ("add", ["think", "fixed", "blind", "super", "clean", "search"])),
    ("text_blind_think", ("text", ["blind", "think"])),
])
def test_names_are_parsed(name: str, expected: tuple[str, list[str]], conf: Path) -> None:
    assert parse_experiment(name, conf) == expected


def test_a_name_becomes_a_task_and_a_list(conf: Path) -> None:
    assert typed("experiment=add_think_blind", "seed=1") == [
        "variant=[think,blind]", "task=add", "seed=1"]
    assert typed("experiment=text_normal", conf=conf) == ["variant=[]", "task=text"]
    assert typed("+experiment=add_normal") == ["variant=[]", "task=add"]
    assert typed("experiment=null", "seed=1") == ["seed=1"]


def test_a_typed_task_or_list_outranks_the_name(conf: Path) -> None:
    assert typed("experiment=add_think", "task=text", conf=conf) == ["variant=[think]", "task=text"]
    assert typed("experiment=add_think", "variant=[]") == ["variant=[]", "task=add"]


@pytest.mark.parametrize("name", ["foo", "add", "add_", "", "add_thinkk", "add_think_think",
                                  "add_normal_think", "think", "sub_think", "add-think"])
def test_unknown_names_list_the_legal_parts(name: str, conf: Path) -> None:
    with pytest.raises(UserError) as error:
        typed(f"experiment={name}", conf=conf)
    line = str(error.value)
    assert line.startswith(f"experiment={name}: found {name!r}")
    assert "legal: bare, broken, digits, empty, long, one, add or " in line
    assert line.endswith(" followed by _normal or by some of _think _fixed _blind _super _clean "
                         "_search")


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(UserError, match=r"\(did you mean add_think\?\)"):
        typed("experiment=add_thinkk")


def test_sweeps_over_names(conf: Path) -> None:
    assert typed("-m", "experiment=add_normal,add_think_blind") == [
        "-m", "variant=[],[think,blind]", "task=add"]
    assert typed("-m", "experiment=add_think,add_think_blind", "fixed=true") == [
        "-m", "variant=[think,fixed],[think,fixed,blind]", "task=add"]
    with pytest.raises(UserError, match="found tasks add, text; legal: one task"):
        typed("-m", "experiment=add_think,text_think", conf=conf)


# --- experiment files ---------------------------------------------------------------------------


def test_a_file_goes_to_hydra_as_it_is(conf: Path) -> None:
    assert typed("experiment=digits", conf=conf) == ["experiment=digits"]
    assert typed("-m", "experiment=digits,bare", conf=conf) == ["-m", "experiment=digits,bare"]
    assert typed("experiment=digits", "variant=[think]", conf=conf) == [
        "variant=[think]", "experiment=digits"]


@pytest.mark.parametrize("name, expected", [
    ("digits", "[think,fixed,blind]"), ("long", "[think,fixed,super]"), ("one", "[think,fixed]"),
    ("bare", "[think,fixed,blind,search]"), ("empty", "[think,fixed,blind,search]"),
])
def test_flags_add_to_the_variants_of_a_file(name: str, expected: str, conf: Path) -> None:
    assert typed(f"experiment={name}", "fixed=true", conf=conf) == [
        f"variant={expected}", f"experiment={name}"]


def test_flags_remove_from_the_variants_of_a_file(conf: Path) -> None:
    assert typed("experiment=digits", "blind=false", conf=conf) == [
        "variant=[think]", "experiment=digits"]
    assert typed("experiment=bare", "blind=false", conf=conf) == [
        "variant=[think,fixed,search]", "experiment=bare"]
    assert typed("-m", "experiment=digits", "blind=true,false", conf=conf) == [
        "-m", "variant=[think,blind],[think]", "experiment=digits"]


@pytest.mark.parametrize("words", [["-m", "experiment=digits,bare", "fixed=true"],
                                   ["-m", "experiment=digits,add_think"]])
def test_files_do_not_mix(words: list[str], conf: Path) -> None:
    with pytest.raises(UserError, match=r"found a file \(digits\) among others; legal: "):
        typed(*words, conf=conf)


def test_a_broken_file_is_named(conf: Path) -> None:
    with pytest.raises(UserError, match=r"experiment/broken\.yaml: is not YAML \("):
        typed("experiment=broken", "think=true", conf=conf)


# --- schedules, weights, options ----------------------------------------------------------------


@pytest.mark.parametrize("word, expected", [
    ("rollout.epsilon=linear(0.5, 0, 100)", 'rollout.epsilon="linear(0.5, 0, 100)"'),
    ("rollout.epsilon=linear(0.5,0,9),cosine(1,0,9),0",
     'rollout.epsilon="linear(0.5,0,9)","cosine(1,0,9)",0'),
    ('rollout.epsilon="linear(0.5,0,9)"', 'rollout.epsilon="linear(0.5,0,9)"'),
    ("rollout.epsilon='exponential(1,2,3)'", "rollout.epsilon='exponential(1,2,3)'"),
    ("rollout={epsilon:linear(1,0,9)}", 'rollout={epsilon:"linear(1,0,9)"}'),
    ("rollout.epsilon=nonlinear(1,0,9)", "rollout.epsilon=nonlinear(1,0,9)"),
    ("reward.length=-0.5", "++reward.length=-0.5"),
    ("+reward.length=-0.5", "+reward.length=-0.5"),
    ("reward=length", "reward=length"),
])
def test_schedules_are_quoted_and_weights_added(word: str, expected: str) -> None:
    assert typed(word) == [expected]


def test_options_may_stand_anywhere() -> None:
    assert typed("seed=1", "-m", "task.max=10,20") == ["-m", "seed=1", "task.max=10,20"]
    assert typed("seed=1", "--cfg", "job", "task.max=10") == ["--cfg", "job", "seed=1",
                                                              "task.max=10"]


def test_plugins_are_a_list_with_and_without_brackets() -> None:
    assert typed("plugins=a,b.c") == typed("plugins=[a,b.c]") == ["plugins=[a,b.c]"]


def test_every_way_to_ask_for_a_sweep() -> None:
    for word in ("-m", "--multirun", "hydra.mode=MULTIRUN"):
        assert "variant=[think],[]" in typed(word, "variant=[]", "think=true,false", "fixed=false")
