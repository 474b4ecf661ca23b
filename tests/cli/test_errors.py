"""Bad input of every kind gets one line: `key=value: found ...; legal: ...`."""

from __future__ import annotations

import copy
import functools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser

from ponder.cli.errors import explain, refuse_words
from ponder.cli.shorthand import rewrite
from ponder.config.checker import remarks
from ponder.config.errors import UserError, brief, closest, replacing, shown
from ponder.config.registry import REWARDS, TASKS
from ponder.config.resolve import read
from ponder.config.spine import CONF, choices, register
from ponder.tasks.choice.questions import LANGUAGES

FORMS = "a number, or linear, cosine or exponential(start, end, steps)"
STRATEGIES = ", ".join(choices("strategy"))
Refusal = Callable[..., str | None]

# Words of a command line, and the whole line they get.
REFUSED = [
    # types
    ("trainer.train_batch_size=abc", "found 'abc'; legal: a whole number"),
    ("trainer.train_batch_size=1.5", "found '1.5'; legal: a whole number"),
    ("trainer.max_steps=1e9", "found '1e9'; legal: a whole number"),
    ("task.max=nan", "found 'nan'; legal: a whole number"),
    ("seed=", "found ''; legal: a whole number"),
    ("seed=[1,2]", "found '[1,2]'; legal: a whole number"),
    ("thinker.tokens=true", "found 'true'; legal: a whole number"),
    ("trainer.gen_batch_size=abc", "found 'abc'; legal: a whole number, or null"),
    ("trainer.lr=fast", "found 'fast'; legal: a number"),
    ("trainer.lr=[1]", "found '[1]'; legal: a number"),
    ("trainer.lr={a:1}", "found '{a:1}'; legal: a number"),
    ("thinker.stops=maybe", "found 'maybe'; legal: true or false"),
    ("model.name=[1]", "found '[1]'; legal: text, or null"),
    ("answerer.sees=thought", "found 'thought'; legal: a list of question, thought"),
    ("rollout.temperature=[1]", f"found '[1]'; legal: {FORMS}"),
    ("rollout.temperature=true", f"found 'true'; legal: {FORMS}"),
    ("thinker=1", "found '1'; legal: thinker.<key>=<value>"),
    # null
    ("seed=null", "found null; legal: a whole number"),
    ("trainer.lr=null", "found null; legal: a number"),
    ("answerer.sees=null", "found null; legal: a list of question, thought"),
    ("answerer.model=null", "found null; legal: shared, separate, frozen"),
    ("rollout.temperature=null", f"found null; legal: {FORMS}"),
    ("thinker=null", "found null; legal: thinker.<key>=<value>"),
    ("reward.length=null", "found null; legal: a number"),
    # ranges
    ("trainer.train_batch_size=0", "found 0; legal: at least 1"),
    ("seed=-1", "found -1; legal: at least 0"),
    ("thinker.tokens=-1", "found -1; legal: at least 0"),
    ("task.held_out=1.5", "found 1.5; legal: at most 1"),
    ("task.max=1000000000000000000000", "found 1000000000000000000000; legal: at most "
     "1000000000000000"),
    ("seed=99999999999999999999", "found 99999999999999999999; legal: at most "
     "1000000000000000000"),
    ("trainer.lr=nan", "found nan; legal: a finite number"),
    ("trainer.weight_decay=inf", "found inf; legal: a finite number"),
    ("reward.length=nan", "found nan; legal: a finite number"),
    ("task.held_out=nan", "found nan; legal: a finite number"),
    # schedules
    ("rollout.temperature=hot", f"found 'hot'; legal: {FORMS}"),
    ("rollout.temperature=", f"found ''; legal: {FORMS}"),
    ("rollout.temperature=nan", f"found nan; legal: {FORMS}"),
    ("rollout.temperature=lin(1,2)", f"found a function lin; legal: {FORMS}"),
    ("rollout.temperature=linear(1,2)", f"found 'linear(1,2)'; legal: {FORMS}"),
    ("rollout.temperature=linear(1,0.5,0)", f"found 0 steps, fewer than 1; legal: {FORMS}"),
    ("rollout.temperature=linear(1,0,10)", "found 0.0; legal: at least 0.001"),
    ("rollout.epsilon=linear(2,0,10)", "found 2.0; legal: at most 1.0"),
    ("strategy.entropy=exponential(1,0,10)", "found 0, but exponential needs numbers above 0; "
     f"legal: {FORMS}"),
    # words
    ("action=trian", "found 'trian' (did you mean train?); legal: train, evaluate, problems, "
     "export, compare, browse, sweep, push, pull, generate, chat, lm_eval"),
    ("answerer.sees=[qestion,thought]", "found 'qestion' (did you mean question?); legal: "
     "question, thought"),
    ("task.name=sub", "found 'sub'; legal: add"),
    ("strategy.name=grpo", "found 'grpo'; legal: star"),
    ("run_type=a/b", "found 'a/b'; legal: letters, digits, _ . and -, as it names a directory"),
    ("run_type=", "found ''; legal: letters, digits, _ . and -, as it names a directory"),
    # choices
    ("strategy=gpro", "found 'gpro' (did you mean grpo?); legal: " + STRATEGIES),
    ("strategy=", "found nothing; legal: " + STRATEGIES),
    ("strategy=null", "found null; legal: " + STRATEGIES),
    ("rollout=3", "found 3; legal: sample, search"),
    ("task=sub", f"found 'sub'; legal: {', '.join(choices('task'))}"),
    ("hydra/launcher=slrum", "found 'slrum' (did you mean slurm?); legal: basic, here, local, "
     "slurm, submitit_local, submitit_slurm"),
    # grammar
    ("trainer.lr=[1", "cannot be read; legal: key=value, or as text 'trainer.lr=\"[1\"'"),
    ("trainer.lr=1,2", "found several values; legal: one, a list in brackets, or -m in front for "
     "a sweep over them"),
    ("train", "cannot be read; legal: key=value"),
    ("seed:1", "cannot be read; legal: key=value"),
    ("=1", "found no key; legal: key=value"),
    ("~trainer", "found a deletion; legal: key=value"),
    ("~trainer.lr", "found a deletion; legal: key=value"),
    # files
    ("task.data=/no/such.csv", "found no such table; legal: a file that ends in .csv, .jsonl or "
     ".parquet"),
    (f"task.data={__file__}", "found no such table; legal: a file that ends in .csv, .jsonl or "
     ".parquet"),
    ("model.name=/no/such", "found no config.json there; legal: a checkpoint directory"),
    ("model.name=", "found no config.json there; legal: a checkpoint directory"),
    ("model.ref_name=/no/such", "found no config.json there; legal: a checkpoint directory"),
    ("action=evaluate", "found model.name=null; legal: with model.name=<checkpoint directory>"),
]

# Words that contradict each other, and the whole line they get.
CONTRADICTIONS = [
    ("think=true super=true task.gold=none", "task.gold=none: found no gold thoughts, which "
     "variant=super needs; legal: digits, scratchpad"),
    ("think=true clean=true task.gold=none", "task.gold=none: found no gold thoughts, which "
     "variant=clean needs; legal: digits, scratchpad"),
    ("think=true strategy=sft task.gold=none", "task.gold=none: found no gold thoughts, which "
     "strategy=sft needs; legal: digits, scratchpad"),
    ("think=true reward=gold_tokens task.gold=none", "task.gold=none: found no gold thoughts, "
     "which reward=gold_tokens needs; legal: digits, scratchpad"),
    ("think=true super=true thinker.vocabulary=9", "thinker.vocabulary=9: found too few tokens to "
     "spell the digits of gold thoughts, which variant=super needs; legal: at least 10"),
    ("think=true super=true thinker.tokens=1", "thinker.tokens=1: found other room than the gold "
     "thought of variant=super takes; legal: 2 or more"),
    ("think=true super=true fixed=true thinker.tokens=3", "thinker.tokens=3: found other room than "
     "the gold thought of variant=super takes; legal: 2"),
    ("blind=true fixed=true", "variant=[fixed,blind]: found thinker.tokens=0; legal: together with "
     "think, as in variant=[think,fixed,blind]"),
    ("think=true fixed=true thinker.tokens=0", "variant=[fixed]: found thinker.tokens=0; legal: "
     "together with think, as in variant=[think,fixed]"),
    ("answerer.sees=[question]", "answerer.sees=[question]: found a thought that nobody sees; "
     "legal: [question,thought] or [thought]"),
    ("answerer.sees=[]", "answerer.sees=[]: found a thought that nobody sees; legal: "
     "[question,thought] or [thought]"),
    ("think=true strategy=grpo rollout.samples=1", "rollout.samples=1: found one sample, from "
     "which strategy=grpo with baseline group_mean learns nothing; legal: at least 2"),
    ("think=true rollout.samples=1 strategy.baseline=leave_one_out", "rollout.samples=1: found one "
     "sample, from which strategy=reinforce with baseline leave_one_out learns nothing; legal: at "
     "least 2"),
    ("think=true strategy=dpo rollout.samples=1", "rollout.samples=1: found one sample, of which "
     "strategy=dpo makes no pair; legal: at least 2"),
    ("think=true strategy=grpo strategy.baseline=none rollout.samples=1", "strategy.scale=group: "
     "found rollout.samples=1, which has no deviation; legal: at least 2 samples, or scale none or "
     "batch"),
    ("think=true strategy=grpo strategy.kl=0.1 strategy.kl_estimator=k1",
     "strategy.kl_estimator=k1: found strategy.kl_place=loss, where its gradient is zero on "
     "average; legal: k3, or strategy.kl_place=reward"),
    ("think=true strategy=dpo strategy.tokens_per_rollout=1", "strategy.tokens_per_rollout=1: found"
     " strategy=dpo, which weighs whole thoughts; legal: 0"),
    ("think=true strategy=exact thinker.tokens=5000", "strategy=exact: found more than 4096 "
     "thoughts to enumerate; legal: fewer thinker.tokens or a smaller thinker.vocabulary"),
    ("think=true strategy=exact rollout.top_k=2", "strategy=exact: found rollout.top_k or top_p, "
     "but it takes every thought; legal: rollout.top_k=0 rollout.top_p=1"),
    ("think=true strategy=exact trainer.train_batch_size=3000", "trainer.train_batch_size=3000: "
     "found 111 thoughts of each question; legal with strategy=exact: at most 2361, with more "
     "train_gradient_accumulation_steps"),
    ("think=true search=true strategy=exact", "strategy=exact: found a search, but it takes every "
     "thought; legal: rollout=sample"),
    ("think=false thinker.kind=gumbel", "thinker.kind=gumbel: found thinker.tokens=0; legal: "
     "together with think, as in think=true"),
    ("thinker.kind=continuous", "rollout=search: found thinker.kind=continuous, which is not "
     "searched but learnt through the answer; legal: rollout=sample, as in think=true blind=true"),
    ("think=true thinker.kind=continuous strategy=grpo", "strategy=grpo: found thinker.kind="
     "continuous, which learns through the answer and not from rewards; legal: reinforce, of "
     "which nothing but the entropy bonus is left"),
    ("think=true thinker.kind=gumbel reward=[log_likelihood,length]", "reward=[log_likelihood,"
     "length]: found thinker.kind=gumbel, which learns through the answer and not from rewards; "
     "legal: log_likelihood, with weight 1"),
    ("think=true thinker.kind=continuous super=true", "variant=super: found thinker.kind="
     "continuous, which learns through the answer; legal: without super; with "
     "thinker.stage_steps=<steps> thoughts begin as gold ones"),
    ("think=true thinker.kind=continuous model=gpt2", "task=add: found model=hf, but it needs "
     "a GPT-2 of our own; legal: with model=tiny, small, nano"),
    ("think=true thinker.kind=gumbel answerer.model=frozen", "answerer.model=frozen: found "
     "thinker.kind=gumbel, which a frozen copy does not score; legal: shared, separate"),
    ("think=true thinker.kind=continuous trainer.data_parallel=shard", "trainer.data_parallel="
     "shard: found thinker.kind=continuous, for which a network is computed several times a step; "
     "legal: replicate"),
    ("think=true thinker.stage_steps=9", "thinker.stage_steps=9: found thinker.kind=tokens; legal: "
     "0, or thinker.kind=continuous or gumbel"),
    ("think=true thinker.kind=continuous thinker.stage_steps=1500", "thinker.stage_steps=1500: "
     "found trainer.max_steps=3000, in which not all of 2 gold tokens are taken away; legal: at "
     "most 1499"),
    ("think=true thinker.kind=continuous thinker.stage_steps=9 thinker.tokens=3", "thinker.tokens="
     "3: found other room than the gold thought of thinker.stage_steps takes; legal: 2"),
    ("thinker.filler=true", "variant=blind: found thinker.filler=true, which say nothing of the "
     "question; legal: without blind, as in variant=[think]"),
    ("think=false thinker.filler=true", "thinker.filler=true: found thinker.tokens=0; legal: "
     "together with think, as in think=true"),
    ("think=true thinker.filler=true search=true", "rollout=search: found thinker.filler=true, "
     "which is not searched but learnt through the answer; legal: rollout=sample, as in think=true"
     ),
    ("think=true thinker.filler=true clean=true", "reward=[gold_thought]: found thinker.filler="
     "true, which learns through the answer and not from rewards; legal: log_likelihood, with "
     "weight 1"),
    ("think=true thinker.filler=true super=true", "variant=super: found thinker.filler=true, "
     "which learns through the answer; legal: without super"),
    ("think=true thinker.filler=true strategy=ppo", "strategy=ppo: found thinker.filler=true, "
     "which learns through the answer and not from rewards; legal: reinforce, of which nothing but "
     "the entropy bonus is left"),
    ("think=true thinker.filler=true thinker.kind=gumbel", "thinker.kind=gumbel: found "
     "thinker.filler=true, whose tokens are given; legal: tokens"),
    ("think=true thinker.filler=true answerer.model=frozen", "answerer.model=frozen: found "
     "thinker.filler=true, which a frozen copy does not score; legal: shared, separate"),
    ("task=chase task.mix=0.5", "task.mix=0.5: found task.min_steps=6, so no question with fewer "
     "moves than task.steps; legal: null, or task.min_steps below 6"),
    ("think=true rollout.gold_share=0.1 strategy=dpo", "rollout.gold_share=0.1: found strategy="
     "dpo, which does not learn from single sampled thoughts; legal: 0, or strategy=grpo, ppo, "
     "reinforce, star"),
    ("think=true rollout.gold_share=0.1 search=true", "rollout.gold_share=0.1: found rollout=search"
     ", which samples no thoughts beside the gold ones; legal: 0"),
    ("think=true rollout.gold_share=0.1 task.gold=none", "task.gold=none: found no gold thoughts"
     ", which rollout.gold_share needs; legal: digits, scratchpad"),
    ("think=false rollout.gold_share=0.1", "rollout.gold_share=0.1: found no thoughts; legal: 0, "
     "or with think, as in think=true"),
    ("think=true rollout.gold_steps=9", "rollout.gold_steps=9: found rollout.gold_share=0; legal: "
     "null, or a share above 0"),
    ("think=true reward=reference", "reward=reference: found model.ref_name=null; legal: with "
     "model.ref_name=<checkpoint directory>"),
    ("~reward.log_likelihood", "reward={}: found none; legal: one or more of "
     + ", ".join(REWARDS.names())),
    ("experiment=invent_steps trainer.curriculum=none", "rollout.method=grow: found "
     "trainer.curriculum=none; legal: accuracy or linear, which say how long the next thoughts "
     "are"),
    ("experiment=invent_steps task=add", "rollout.method=grow: found task=add, but it needs easier "
     "questions; legal: with task=automaton, carry, chain, chase, columns, cups, equation, "
     "graph, half, many, multiply, parity, registers, sat, sort, threesum"),
    ("experiment=invent_steps rollout.samples=2", "rollout.samples=2: found rollout.method=grow, "
     "which makes one thought for each question; legal: 1"),
    ("experiment=invent_steps thinker.pace=0", "rollout.method=grow: found thinker.pace=0, but "
     "each move of a question gets a step of thought; legal: thinker.pace=1 or more, the tokens of "
     "a step"),
    ("experiment=invent_steps thinker.stops=true", "thinker.pace=1: found thinker.stops=true, but "
     "the question says how long a thought is; legal: 0, or with fixed, as in "
     "variant=[think,fixed]"),
    ("experiment=invent_steps thinker.pace=2 thinker.tokens=16", "thinker.tokens=16: found "
     "thinker.pace=2 and questions of up to 16 moves; legal: 32 or more"),
    ("task=add think=true variant=[think,fixed] thinker.pace=1", "thinker.pace=1: found task=add, "
     "but it needs questions of moves; legal: with task=automaton, carry, chain, chase, columns, "
     "cups, half, parity, registers"),
    ("task=cups variant=[think,fixed,search] thinker.pace=1", "thinker.pace=1: found "
     "rollout.method=auto, which searches thoughts of thinker.tokens; legal: 0, or "
     "rollout.method=grow"),
    ("task=half thinker.asked=4 rollout.method=balanced", "rollout.method=balanced: found "
     "thinker.asked=4, but a code is dealt to each answer; legal: auto, grow, exhaustive, beam, "
     "tree"),
    ("task=add trainer.curriculum=linear", "trainer.curriculum=linear: found task=add, but it "
     "needs easier questions; legal: with task=automaton, carry, chain, chase, columns, cups, "
     "equation, graph, half, many, multiply, parity, registers, sat, sort, threesum"),
    ("task=cups thinker.kind=gumbel think=true search=false answerer.positions=from_end",
     "answerer.positions=from_end: found thinker.kind=gumbel; legal: from_start, or "
     "thinker.kind=tokens"),
    ("experiment=hidden_state thinker.asked=12", "thinker.asked=12: found task=half with 11 "
     "questions about a thought; legal: at most 11"),
    ("experiment=hidden_state task=registers", "thinker.asked=4: found task=registers with 3 "
     "questions about a thought; legal: at most 3"),
    ("experiment=hidden_state thinker.asked=9 task.unasked=0.3", "thinker.asked=9: found "
     "task=half with 8 questions about a thought that are asked in training (task.unasked=0.3); "
     "legal: at most 8"),
    ("experiment=hidden_state task.cups=2 task.unasked=0.05", "task.unasked=0.05: found a problem "
     "of task=half none of whose 2 questions is left out; legal: 0, or a larger share"),
    ("experiment=hidden_state task=cups", "thinker.asked=4: found task=cups, but it needs several "
     "questions about one thought; legal: with task=automaton, carry, half, passage, registers"),
    ("experiment=hidden_state thinker.asked=0 task.unasked=0.2", "task.unasked=0.2: found "
     "thinker.asked=0; legal: 0, or with questions about thoughts, as in thinker.asked=4"),
    ("experiment=hidden_state task=cups task.unasked=0.2", "task.unasked=0.2: found task=cups, "
     "which has one question about a thought; legal: 0"),
    ("experiment=hidden_state thinker.tokens=0", "thinker.asked=4: found thinker.tokens=0; legal: "
     "0, or with think, as in think=true"),
    ("task=half think=true thinker.asked=4 thinker.kind=gumbel", "thinker.asked=4: found "
     "thinker.kind=gumbel; legal: 0, or thinker.kind=tokens"),
    ("task=half think=true thinker.asked=4 thinker.kind=continuous", "thinker.asked=4: found "
     "thinker.kind=continuous; legal: 0, or thinker.kind=tokens"),
    ("experiment=hidden_state task.min_steps=17", "task.min_steps=17: found more than task.steps; "
     "legal: at most 16"),
    ("task=cups think=true super=true task.min_steps=17", "task.min_steps=17: found more than "
     "task.steps; legal: at most 16"),
    ("task=automaton task.letters=6 task.further=4", "task.further=4: found task.letters=6, more "
     "than 1000 words of so many letters; legal: fewer"),
    ("task=carry task.base=2 task.ahead=4", "task.ahead=4: found task.base=2, whose columns have "
     "smaller sums; legal: 0 to 3"),
    ("super=true think=true search=true rollout.method=balanced", "rollout.method=balanced: found "
     "super or clean, but it invents a language of its own; legal: auto, exhaustive, beam, tree"),
    ("model.heads=3", "model.heads=3: found no divisor of model.d_model=64; legal: a divisor"),
    ("model.d_model=5 model.heads=1 model.positions=sinusoidal", "model.d_model=5: found an odd "
     "width, but sinusoidal positions come in pairs; legal: an even width, or "
     "model.positions=learned"),
    ("task.max=10000000", "task.max=10000000: found answers up to 9999999, too many for a token "
     "each; legal: answers below 1000000, or task.answer=digits"),
    ("think=true task.gold=scratchpad task.terms=11", "task.terms=11: found carries that are no "
     "digit, in task.gold=scratchpad; legal: at most 10"),
    ("task.thought_length=5", "task.thought_length=5: found another length than the gold thought "
     "has; legal: 2 (set thinker.tokens for more)"),
    ("task.held_out=0", "task.held_out=0: found no question to evaluate on; legal: above 0, at "
     "most 0.9"),
    ("task=qa", "task.data=null: found no questions; legal: task.data=<file>.csv, .jsonl, "
     ".parquet"),
    ("task=qa task.data=/no/such.jsonl", "task.data=/no/such.jsonl: found no such table; legal: a "
     "file that ends in .csv, .jsonl or .parquet"),
    ("task=mmlu task.shots_data=x.txt", "task.shots_data=x.txt: found no such table; legal: a file "
     "that ends in .csv, .jsonl or .parquet"),
    ("task=mmlu task.language=YO", "task.language=YO: found no such language on the hub; legal: "
     "EN, " + ", ".join(LANGUAGES) + ", or task.data=<file> with the questions"),
    ("task=addition task.worked_digits=9", "task.worked_digits=9: found more than task.digits; "
     "legal: at most 5"),
    ("task=addition task.thought_length=4", "task.thought_length=4: found another length than the "
     "gold thought has; legal: 5 (set thinker.tokens for more)"),
    ("experiment=star_addition thinker.vocabulary=19", "thinker.vocabulary=19: found too few "
     "tokens to spell the digits of gold thoughts, which trainer.rehearse needs; legal: at least "
     "20"),
    ("experiment=star_addition think=false", "trainer.rationalise=true: found nothing that keeps "
     "right thoughts; legal: with thoughts, strategy=star and strategy.keep=correct, or false"),
    ("task=addition think=true trainer.rehearse=9 strategy=grpo thinker.vocabulary=20",
     "trainer.rehearse=9: found strategy=grpo, which learns from groups; legal: 0, or "
     "strategy=star or sft"),
    ("trainer.rationalise=true", "trainer.rationalise=true: found task=add, but it needs hints; "
     f"legal: with task={', '.join(one.name for one in TASKS if 'hints' in one.offers)}"),
    ("trainer.rehearse=9", "trainer.rehearse=9: found task=add, but it needs worked "
     "examples; legal: with task="
     + ", ".join(one.name for one in TASKS if "worked_examples" in one.offers)),
    ("action=problems", "out=null: found no table to write; legal: out=<file> that ends "
     "in .csv, .jsonl, .parquet"),
    ("action=problems out=x.txt", "out=x.txt: found no table to write; legal: out=<file> "
     "that ends in .csv, .jsonl, .parquet"),
    ("action=export out=x.csv", "action=export: found model=transformer, but it needs a Hugging "
     "Face model; legal: with model=hf, smollm2, gpt2"),
    ("trainer.engine=trl", "trainer.engine=trl: found model=transformer, but it needs a Hugging "
     "Face model; legal: with model=hf, smollm2, gpt2"),
    ("trainer.data_parallel=shard trainer.compile=true", "trainer.data_parallel=shard: found "
     "trainer.compile=true, which compiles networks as a whole; legal: replicate, or "
     "trainer.compile=false"),
]

# Sixty more, each of which must be one line that says what is legal.
SIXTY = [
    "reward=[length,lenght]",
    "hydra.run.dir=",
    "trainer.threads=100000",
    "thinker.tokens=100000",
    "thinker.tokens=1e3",
    "model.layers=1000000",
    "model.d_model=1000000",
    "model.heads=0",
    "model.heads=7",
    "trainer.train_batch_size=1000000000",
    "trainer.gen_batch_size=1000000000",
    "rollout.samples=100000000",
    "rollout.samples=0",
    "rollout.top_p=0",
    "rollout.top_p=1.01",
    "rollout.top_k=-1",
    "rollout.method=greedy",
    "rollout.noise=cosine(1,2)",
    "seed=-5",
    "seed=0.5",
    "seed=one",
    "step=-1",
    "task.max=1",
    "task.max=ten",
    "task.terms=0",
    "task.held_out=2",
    "task.test_questions=0",
    "task.order=up",
    "task.answer=word",
    "task=adds",
    "task=[add,qa]",
    "task=add task.digits=3",
    "model=giant",
    "model=tiny model.lora_r=4",
    "model.positions=rope",
    "model=hf",
    "model=hf model.name=no/such/model/at/all",
    "strategy=ppo strategy.clip=-1",
    "strategy=grpo strategy.scale=wild",
    "strategy=",
    "reward=[]",
    "reward=lenght",
    "reward.length=much",
    "variant=[think,deep]",
    "think=2",
    "blind=true",
    "clean=true",
    "experiment=nothing_here",
    "experiment=add_blind_blind",
    "trainer.optimizer=sgd",
    "trainer.lr=-1",
    "trainer.beta2=1",
    "trainer.device=tpu",
    "trainer.dtype=float64",
    "trainer.max_steps=-3",
    "trainer.lr_end=5",
    "trainer.lr_decay=steps",
    "logger=clearml",
    "action=run",
    "action=evaluate model.name=nowhere",
]

# Words that name a key that does not exist, and the beginning of the line they get.
UNKNOWN = [
    ("trainer.train_batch_sise=3", "trainer.train_batch_sise: no such key (did you mean "
     "train_batch_size?); legal here: max_steps, "),
    ("+trainer.foo=1", "trainer.foo: no such key; legal here: max_steps, "),
    ("foo=1", "foo: no such key; legal here: action, seed, "),
    ("+foo=1", "foo: no such key; legal here: action, seed, "),
    ("modle.d_model=3", "modle: no such key (did you mean model?); legal here: action, seed, "),
    ("strategy.baseline=none", "strategy.baseline: no such key; legal here: name, entropy, "
     "tokens_per_rollout, keep"),
    ("trainer.lr.peak=1", "trainer.lr.peak: no such key; legal: trainer.lr=<a number>"),
    ("reward.exactmatch=1", "reward.exactmatch: no such reward (did you mean exact_match?); legal: "
     "exact_match, "),
    ("hydra.foo=1", "hydra.foo: no such key; legal here: "),
    ("trainer.lr=${foo}", "trainer.lr: found ${foo}, which is no key; legal: a number"),
    ("trainer.lr=${trainer.lr}", "trainer.lr: found Recursive interpolation detected; legal: a"),
    ("trainer.lr=${oc.env:NO_SUCH}", "trainer.lr: found KeyError raised while resolving"),
    ("think=maybe", "think=maybe: found 'maybe'; legal: true or false"),
    ("variant=[thnk]", "variant=[thnk]: found 'thnk' (did you mean think?); legal: a list of "),
    ("experiment=add_thinkk", "experiment=add_thinkk: found 'add_thinkk' (did you mean add_think"),
    ("--foo", "unrecognized arguments: --foo; legal: key=value, --cfg job, -m, --help"),
    ("--cfg", "argument --cfg/-c: expected one argument; legal: key=value, --cfg job, -m, --help"),
    ("--cfg=jbo", "argument --cfg/-c: invalid choice: 'jbo' (choose from "),
]


def refusal_of(conf: Path, words: tuple[str, ...]) -> str | None:
    """The line that words get, on the way that `ponder.cli.main.main` goes; None if they are good.

    Composing is slow, so it is done once for the same choices, and Hydra applies single values.
    """
    try:
        arguments = rewrite(list(words), conf)
        refuse_words(arguments, conf)
        parsed = OverridesParser.create().parse_overrides(arguments)
        values = [one for one in parsed if re.match(r"(?!hydra\.)\w+\.|seed|action|out|run_type",
                                                    one.key_or_group)]
        choices = tuple(str(one.input_line) for one in parsed if one not in values)
        node = copy.deepcopy(_composed(choices) if "experiment=x" not in choices
                             else compose("config", overrides=list(choices)))
        ConfigLoaderImpl._apply_overrides_to_config(values, node)
        read(node)
    except UserError as error:
        return str(error)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        return line
    return None


@functools.lru_cache
def _composed(choices: tuple[str, ...]) -> Any:
    return compose("config", overrides=list(choices))


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the configuration folder that tests may write experiments to."""
    folder = tmp_path_factory.mktemp("conf")
    shutil.copytree(CONF, folder, dirs_exist_ok=True)
    (folder / "experiment").mkdir(exist_ok=True)
    return folder


@pytest.fixture
def refusal(conf: Path) -> Iterator[Refusal]:
    register()
    with initialize_config_dir(str(conf), version_base="1.3"):
        yield lambda *words: refusal_of(conf, words)


@pytest.mark.parametrize("word, line", REFUSED)
def test_a_wrong_word_gets_one_line(word: str, line: str, refusal: Refusal) -> None:
    assert refusal(word) == f"{word}: {line}"


@pytest.mark.parametrize("words, line", CONTRADICTIONS)
def test_a_contradiction_gets_one_line(words: str, line: str, refusal: Refusal) -> None:
    assert refusal(*words.split()) == line


@pytest.mark.parametrize("word, start", UNKNOWN)
def test_a_wrong_key_gets_one_line(word: str, start: str, refusal: Refusal) -> None:
    line = refusal(word)
    assert line is not None and line.startswith(start) and "\n" not in line


@pytest.mark.slow
@pytest.mark.parametrize("words", SIXTY)
def test_sixty_bad_lines_get_one_line(words: str, refusal: Refusal) -> None:
    line = refusal(*words.split())
    assert line is not None and "\n" not in line and "; legal" in line
    assert "legal: nothing" not in line and len(SIXTY) == 60


@pytest.mark.parametrize("words", [
    "", "rollout.epsilon=linear(0.5,0,100)", "rollout.temperature=0.5",
    "trainer.gen_batch_size=null", "reward.length=-0.1", "trainer={lr:0.5}",
    "think=true strategy=grpo", "think=true super=true thinker.tokens=5",
    "task.max=10000000 task.answer=digits", "think=true task.gold=scratchpad task.terms=10",
    "think=true rollout.samples=1 strategy.baseline=running_mean", "task.held_out=0.001",
    "think=true search=true super=true", "thinker.tokens=3", "model.heads=1 model.d_model=5",
    "action=problems out=x.csv task=mmlu",
])
def test_good_words_get_none(words: str, refusal: Refusal) -> None:
    assert refusal(*words.split()) is None


def test_a_schedule_may_be_a_whole_number(refusal: Refusal) -> None:
    assert refusal("rollout.epsilon=0", "strategy.entropy=0", "rollout.temperature=1") is None


# --- experiment files ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("text, line", [
    ("trainer:\n  lr: abc\n", "conf/experiment/x.yaml: trainer.lr=abc: found 'abc'; legal: a "
     "number"),
    ("trainer:\n  lr: null\n", "conf/experiment/x.yaml: trainer.lr=null: found null; legal: a "
     "number"),
    ("seeed: 1\n", "conf/experiment/x.yaml: seeed: no such key (did you mean seed?); legal here: "
     "action, "),
    ("trainer:\n  lr: ${foo}\n", "trainer.lr: found ${foo}, which is no key; legal: a number"),
    ("trainer: [1\n", "while parsing a flow sequence in "),
    ("- 1\n", "conf/experiment/x.yaml: Cannot merge DictConfig with ListConfig"),
    ("defaults:\n  - override /strategy: gpro\n", "strategy=gpro: found 'gpro' (did you mean "
     "grpo?); legal: " + STRATEGIES),
    ("defaults:\n  - override /stratgy: star\n", "conf/experiment/x.yaml: Could not override "
     "'stratgy'."),
    ("defaults:\n  - override /rollout: null\n  - override /variant: [think]\n", "rollout=null: "
     "found null; legal: sample, search"),
    ("trainer:\n  lr: 0.0\n", None),
])
def test_a_wrong_experiment_file_is_named(text: str, line: str | None, conf: Path,
                                          refusal: Refusal) -> None:
    (conf / "experiment" / "x.yaml").write_text(f"# @package _global_\n{text}")
    found = refusal("experiment=x")
    assert found == line or (found is not None and line is not None and found.startswith(line)
                             and "\n" not in found)


# --- the parts ----------------------------------------------------------------------------------


def test_bugs_are_not_explained_away() -> None:
    for bug in (ValueError("x"), KeyError("x"), TypeError("x"), OSError("x"), RuntimeError("x")):
        assert explain(bug) is None


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "x"
    with replacing(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(OSError), replacing(path) as temporary:
        temporary.write_text("hal")
        raise OSError
    assert path.read_text() == "first" and [*path.parent.iterdir()] == [path]


def test_what_cannot_teach_is_said(refusal: Refusal) -> None:
    config = read(compose("config", overrides=["variant=[think]", "reward=length"]))
    assert [*remarks(config)] == [
        "reward=[length]: says nothing of question or answer, so thoughts cannot learn to help; "
        "with another one besides, as in reward=[log_likelihood,length]"]
    both = ["variant=[think]", "reward=[length,log_likelihood]"]
    assert not [*remarks(read(compose("config", overrides=both)))]


def test_shown_as_typed() -> None:
    assert [shown(value) for value in (None, True, False, 1, 0, 0.5, "a", ["a", None, 1])] == [
        "null", "true", "false", "1", "0", "0.5", "a", "[a,null,1]"]


def test_closest() -> None:
    assert closest("gpro", ["star", "grpo"]) == " (did you mean grpo?)"
    assert closest("zzz", ["star", "grpo"]) == ""


def test_what_a_library_says_is_cut_at_words() -> None:
    assert brief(OSError("one\n two"), 20) == "one two"
    assert brief(OSError("word " * 30), 21) == "word word word ..."
    assert brief(OSError("/tmp/" + "a" * 30 + " not there"), 20) == "/tmp/" + "a" * 15 + "..."
