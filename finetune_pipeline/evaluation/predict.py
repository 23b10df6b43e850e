"""Predictions of models on an examples file: the ``baseline``, ``predict`` and ``latency`` actions of the child process."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from finetune_pipeline import progress
from finetune_pipeline.data.documents import PASSAGES, left_out, read_documents, read_passages, write_passages
from finetune_pipeline.data.examples import Example, Message, read_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.perturbations import drawn, perturbed
from finetune_pipeline.engine.files import SeenFiles
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.answering import Answerer, close_cache, open_cache
from finetune_pipeline.evaluation.correctness import is_valid
from finetune_pipeline.evaluation.endpoint_answers import EndpointAnswerer, hosted_answerer, served_answerer
from finetune_pipeline.evaluation.prediction_facts import (
    AnsweredPrompts,
    Predicted,
    PromptFacts,
    RestrictedFacts,
    SetFacts,
)
from finetune_pipeline.evaluation.predictions import (
    PredictionRow,
    count_statuses,
    prediction_rows,
    restricted_name,
    write_predictions,
)
from finetune_pipeline.evaluation.preferences.embeddings import embed
from finetune_pipeline.evaluation.prompts import Retriever, conversations, prompts_to_try, write_prompts
from finetune_pipeline.evaluation.simple_answers import NONE_ASKED, run_simple_models
from finetune_pipeline.evaluation.stored_prompt import (
    StoredPrompt,
    read_stored_prompt,
    restricted_answer,
    stored_retriever,
)
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import LOG_PROBABILITIES, BaselineJob, LatencyJob, ModelSet, PredictJob, Prompt
from finetune_pipeline.models.chat import Tools, common_prefix, encode_answer, encode_prompt, end_ids
from finetune_pipeline.models.hosted import HostedModel
from finetune_pipeline.models.inference.constrained import Complies, Grammar, Restriction
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.evaluation import ServedModelsSpec
from finetune_pipeline.spec.json_grammar import UnsupportedSchema
from finetune_pipeline.spec.outputs import JsonOutput

AnyAnswerer = Answerer | EndpointAnswerer


def predict(job: PredictJob) -> tuple[Predicted, dict[str, object]]:
    """Run a job of :class:`finetune_pipeline.jobs.PredictJob`. Returns (facts, measured)."""
    examples = _examples(job)
    rows: list[PredictionRow] = []
    token_logs: list[dict[str, object]] = []
    sets: dict[str, SetFacts] = {}
    simple = NONE_ASKED
    retriever = retriever_of(job, [model_set.prompt for model_set in job.sets])
    cache, seen_files = open_cache(job.answers)
    measured: dict[str, Any] = {"seconds_by_set": {}, "milliseconds": {}, "spent": {}}
    answerer: AnyAnswerer | None = None
    loaded_source: Any = None
    for model_set in job.sets:
        name, sent = model_set.name, model_set.decoded_schema  # to an endpoint
        source = (model_set.model, model_set.adapter, model_set.served, model_set.hosted, sent)
        if answerer is None or loaded_source != source:
            answerer = None  # free the last model's memory before the next one loads
            answerer, loaded_source = _make_answerer(job, model_set, cache, seen_files, measured["spent"]), source
        seconds_before, known_before = dict(answerer.seconds), cache.hits if cache else 0
        set_examples = _set_examples(model_set, examples, job.labels)
        stored = read_stored_prompt(model_set.stored) if model_set.stored else None
        labels, prompt, schema = job.labels if model_set.likelihoods else [], model_set.prompt, model_set.restricted
        if stored:
            labels, prompt, schema = stored.scored_labels, stored.prompt, stored.decoded_schema
        choices = conversations(
            set_examples, prompt, stored_retriever(model_set.stored) if model_set.stored else retriever
        )
        complies, grammar, why_unrestricted = _restriction(schema, answerer)
        restriction = Restriction(grammar, complies) if grammar else None
        settings = replace(job, labels=labels)
        answers, set_facts = _answer(settings, name, answerer, set_examples, choices, restriction)
        seconds = {phase: round(after - seconds_before[phase], 3) for phase, after in answerer.seconds.items()}
        measured["seconds_by_set"][name] = seconds
        if isinstance(answerer, EndpointAnswerer):
            set_facts = replace(set_facts, asked=answerer.endpoint.name)
            measured["spent"][name] = asdict(answerer.spent)
        elif asked := len(answers) - ((cache.hits if cache else 0) - known_before):
            measured["milliseconds"][name] = round(1000 * seconds["answer"] / asked, 2)
        gold = [gold_text(answerer.tokenizer, example) for example in set_examples]
        if stored and stored.mode == "restricted":
            answers = _stored_answers(stored, answers, complies, why_unrestricted, answerer)
        elif model_set.constrained:
            answers = _constrained(name, answers, why_unrestricted, answerer)
        tokenizer = None if job.labels or isinstance(answerer, EndpointAnswerer) else answerer.tokenizer
        rows += prediction_rows(set_examples, name, answers, gold, tokenizer)
        token_logs += [{"log_probabilities": answer.log_probabilities} for answer in answers]
        if schema is not None and not stored and not model_set.constrained:
            restricted, restricted_facts = _restricted(answers, complies, why_unrestricted)
            set_facts = replace(set_facts, restricted=restricted_facts)
            if restricted is None:
                say(f"{job.stage}: {restricted_name(name)}: not available: {why_unrestricted}")
            else:
                rows += prediction_rows(set_examples, restricted_name(name), restricted, gold, tokenizer)
        sets[name] = set_facts
    if answerer is None and job.simple:  # no language model is asked, but its tokenizer writes the references
        answerer = Answerer(job.simple.base, precision=job.precision)
    if job.simple or job.fitted:
        assert answerer is not None  # a job asks at least one model
        tokenizer, base = answerer.tokenizer, job.simple.base if job.simple else None
        if base and not (isinstance(answerer, Answerer) and (answerer.folder, answerer.adapter) == (base, None)):
            answerer = Answerer(base, precision=job.precision)  # the last model's memory is free before this one loads
        reader = answerer if base and isinstance(answerer, Answerer) else None
        simple = run_simple_models(job, reader, cache, lambda example: gold_text(tokenizer, example))
        rows, measured["simple"] = rows + simple.rows, msgspec.to_builtins(simple.costs)
    write_predictions(job.out / "predictions.parquet", rows)
    if job.log_probabilities:
        write_rows(job.out / LOG_PROBABILITIES, token_logs)
    facts = Predicted(rows=len(examples), sets=sets, vectors=simple.vectors, left_out=simple.left_out)
    return facts, {"answers": close_cache(cache), **{name: values for name, values in measured.items() if values}}


def retriever_of(job: PredictJob | LatencyJob, prompts: Iterable[Prompt]) -> Retriever | None:
    """The retriever over the job's training examples and passages; None if no prompt retrieves."""
    if not any(prompt.retrieved or prompt.documents for prompt in prompts):
        return None
    passages = read_passages(job.passages) if job.passages else []
    assert job.train is not None, "a prompt that retrieves needs the training examples"
    return Retriever(read_examples(job.train), passages)


def _restriction(schema: Mapping[str, object] | None, answerer: AnyAnswerer) -> tuple[Complies, Grammar | None, str]:
    """Returns a function that tests answers against the schema, the grammar that enforces it, and why a schema has no grammar."""
    output = JsonOutput(json_schema=dict(schema or {}))

    def complies(answer: Answer) -> bool:
        return is_valid(vars(answer), output)

    if schema is None:
        return complies, None, ""
    if isinstance(answerer, EndpointAnswerer):
        return complies, None, "answers of an endpoint cannot be restricted to a schema here"
    try:
        return complies, Grammar(schema, answerer.tokenizer), ""
    except UnsupportedSchema as error:
        return complies, None, str(error)


def _restricted(
    answers: Sequence[Answer], complies: Complies, why_unrestricted: str
) -> tuple[list[Answer] | None, RestrictedFacts]:
    """Replace the answers that do not comply by restricted ones; None if the model could not be restricted, for a reason."""
    if why_unrestricted and not all(map(complies, answers)):
        return None, RestrictedFacts(asked=0, available=False, why=why_unrestricted, statuses={})
    restricted = [answer.restricted or answer for answer in answers]
    regenerated = sum(answer.restricted is not None for answer in answers)
    statuses = count_statuses(answer.status for answer in restricted)
    return restricted, RestrictedFacts(asked=regenerated, available=True, why="", statuses=statuses)


def _stored_answers(
    stored: StoredPrompt, answers: Sequence[Answer], complies: Complies, why_unrestricted: str, answerer: AnyAnswerer
) -> list[Answer]:
    """The restricted answers of a champion's prompt. Raises JobError if this engine cannot restrict them."""
    if stored.labels and isinstance(answerer, EndpointAnswerer):
        why_unrestricted = "an endpoint scores no labels"
    elif all(map(complies, answers)):
        why_unrestricted = ""
    if why_unrestricted:
        problem = f"the prompt in service answers restricted to the allowed forms, and here {why_unrestricted}"
        raise JobError(f"{problem}\nfix: set evaluation.engine to transformers, so that it can be compared")
    return [restricted_answer(answer, stored.labels) for answer in answers]


def _constrained(name: str, answers: list[Answer], why_unrestricted: str, answerer: AnyAnswerer) -> list[Answer]:
    """The answers of a trained model decoded under the schema, as in service. An endpoint has decoded them itself. Raises
    JobError if this tokenizer allows no such decoding."""
    if isinstance(answerer, EndpointAnswerer):
        return answers
    if why_unrestricted:
        raise JobError(f"{name}: {why_unrestricted}\nfix: leave evaluation.constrained_decoding out")
    return [answer.restricted or answer for answer in answers]


def _set_examples(model_set: ModelSet, examples: list[Example], labels: Sequence[str]) -> Sequence[Example]:
    """The examples of one set: the job's, a perturbed sample of them, or those of its own file."""
    if model_set.examples:
        return read_examples(model_set.examples)
    if perturbation := model_set.perturbed:
        changed = perturbed(examples, perturbation.kind, perturbation.seed, labels)
        # sampled last: rows the perturbation cannot change do not shrink the sample
        return drawn(changed, perturbation.rows, perturbation.seed)
    return examples


def _make_answerer(
    job: PredictJob, model_set: ModelSet, cache: AnswerCache | None, files: SeenFiles | None, spent: Any
) -> AnyAnswerer:
    """The answerer of one set: a hosting service, the job's endpoint, or the local model. spent: on earlier sets, by name."""
    schema = model_set.decoded_schema
    if model_set.hosted:
        hosted = HostedModel.of(model_set.hosted)
        return hosted_answerer(hosted, model_set.model, cache, model_set.concurrency, schema)
    if not job.endpoint:
        return Answerer(model_set.model, model_set.adapter, cache, files, job.precision)
    used_tokens = sum(set_spent["prompt_tokens"] + set_spent["new_tokens"] for set_spent in spent.values())
    assert model_set.served is not None, "an endpoint needs the model's name there"
    return served_answerer(
        ServedModelsSpec(**job.endpoint), model_set.served, model_set.model, cache, used_tokens, schema
    )


def baseline(job: BaselineJob) -> tuple[AnsweredPrompts, dict[str, object]]:
    """Run a job of :class:`finetune_pipeline.jobs.BaselineJob`. Returns (facts, measured)."""
    documents = job.documents
    passages, unread_files = (read_documents(documents), left_out(documents)) if documents else ([], [])
    if unread_files:
        say(f"{job.stage}: skipped, because only text, Markdown and PDF are read: {', '.join(unread_files)}")
    write_passages(job.out / PASSAGES, passages)
    try:
        prompts = prompts_to_try(
            read_examples(job.train),
            shots=job.shots,
            retrieved=job.retrieved,
            labels=job.labels,
            seed=job.seed,
            system_prompt=job.system_prompt,
            others=job.prompts,
            without_labels=job.without_labels,
            documents=job.shown_documents if passages else 0,
            embeddings=job.embeddings,
        )
        if job.embeddings:
            embed(["text"], job.embeddings)  # reports missing files before any model runs
    except FileNotFoundError as error:
        raise JobError(f"baseline.embeddings: {error}") from error
    except ValueError as error:
        raise JobError(f"{error}\nfix: lower baseline.shots, or add training examples") from error
    write_prompts(job.out, prompts)
    predict_job = PredictJob(
        stage=job.stage,
        out=job.out,
        sets=[
            ModelSet(name=name, model=job.base, prompt=prompt, restricted=job.restricted)
            for name, prompt in prompts.items()
        ],
        examples=job.examples,
        labels=job.labels,
        max_new_tokens=job.max_new_tokens,
        batch_size=job.batch_size,
        train=job.train,
        passages=job.out / PASSAGES,
        limit=job.limit,
        answers=job.answers,
        simple=job.simple,
        precision=job.precision,
    )
    facts, measured = predict(predict_job)
    by_prompt = {
        name: PromptFacts(
            **msgspec.structs.asdict(facts.sets[name]),
            shots=prompt.shots,
            retrieved=prompt.retrieved,
            embeddings=prompt.embeddings,
            documents=prompt.documents,
            ids=prompt.ids,
            system=prompt.system,
        )
        for name, prompt in prompts.items()
    }
    return AnsweredPrompts(
        rows=facts.rows,
        prompts=by_prompt,
        passages=len(passages),
        documents_left_out=unread_files,
        vectors=facts.vectors,
        left_out=facts.left_out,
    ), measured


def latency(job: LatencyJob) -> tuple[dict[str, object], dict[str, object]]:
    """Run a job of :class:`finetune_pipeline.jobs.LatencyJob`: time single calls. Returns (facts, measured).

    Leaves out each prompt's first call, which warms up kernels and memory. Does not use the answer cache.
    """
    examples = sorted(read_examples(job.examples), key=lambda example: example.id)[: job.calls + 1]
    answerer = Answerer(job.model, precision=job.precision)
    retriever = retriever_of(job, job.prompts.values())
    milliseconds: dict[str, dict[str, float]] = {}
    for name, prompt in job.prompts.items():
        times = []
        for example, choices in zip(examples, conversations(examples, prompt, retriever), strict=True):
            began = time.perf_counter()
            ids = encode_prompt(answerer.tokenizer, choices[0], example.tools)
            answerer.answers([ids], None, job.max_new_tokens, 1)
            times.append(1000 * (time.perf_counter() - began))
            progress.tell(job.stage, f"{name}, one call at a time", step=len(times), of=len(examples))
        p50, p95 = np.quantile(times[1:] or times, (0.5, 0.95))  # a single call must do
        milliseconds[name] = {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}
        say(f"{job.stage}: {name}: one call alone takes {p50:,.0f} ms (95%: {p95:,.0f} ms)")
    return {"calls": len(examples) - 1}, {"latency": milliseconds}


def _examples(job: PredictJob) -> list[Example]:
    examples = read_examples(job.examples)
    if job.limit is not None:
        chosen = {example.id for example in sorted(examples, key=lambda example: example.id)[: job.limit]}
        examples = [example for example in examples if example.id in chosen]
    if not examples:
        raise JobError(f"{job.examples.name} holds no examples to predict\nfix: look at the split's counts")
    return examples


def _answer(
    job: PredictJob,
    name: str,
    answerer: AnyAnswerer,
    examples: Sequence[Example],
    choices: Sequence[Sequence[list[Message]]],
    restriction: Restriction | None = None,
) -> tuple[list[Answer], SetFacts]:
    """The answers of one set and its facts. choices: each example's conversations (prompts.conversations), of which the first
    that fits into the context is asked."""
    if not examples:
        return [], SetFacts.over([])
    tools, max_new_tokens = [example.tools for example in examples], job.max_new_tokens
    prefix_length = shortened = 0
    if isinstance(answerer, EndpointAnswerer):
        say(f"{job.stage}: {name}: {len(choices)} prompts for {answerer.endpoint.name}")
        answers = answerer.answers([first for first, *_ in choices], tools, max_new_tokens, job.stage, name)
    else:
        encoded = (
            (encode_prompt(answerer.tokenizer, turns, row_tools) for turns in row_choices)
            for row_choices, row_tools in zip(choices, tools, strict=True)
        )
        fitted = [answerer.first_fitting(row_prompts, max_new_tokens) for row_prompts in encoded]
        messages = [row_choices[index] for row_choices, (index, _) in zip(choices, fitted, strict=True)]
        prompts, shortened = [ids for _, ids in fitted], sum(index > 0 for index, _ in fitted)
        labels = None
        if job.labels and answerer.classes:
            numbers = [[answerer.classes.index(label)] if label in answerer.classes else [] for label in job.labels]
            labels = [numbers] * len(prompts)
        elif job.labels:
            labels = encode_labels(answerer.tokenizer, messages, job.labels, tools)
        prefix_length, mean_length = common_prefix(prompts), sum(map(len, prompts)) / len(prompts)
        say(f"{job.stage}: {name}: {len(prompts)} prompts of {mean_length:.0f} tokens on average")
        answers = answerer.answers(prompts, labels, max_new_tokens, job.batch_size, job.stage, name, restriction)
    return answers, SetFacts.over(answers, prefix_length, shortened)


def gold_text(tokenizer: Any, example: Example) -> str:
    """The reference answer as a model would write it: its text, or its tool calls as the chat template renders them."""
    if not example.messages[-1].get("tool_calls"):
        return example.answer
    ids = encode_answer(tokenizer, example.prompt_messages, example.messages[-1], example.tools)
    ids = ids[:-1] if ids[-1] in end_ids(tokenizer) else ids
    return str(tokenizer.decode(ids))


def encode_labels(
    tokenizer: Any, prompts: Sequence[Sequence[Message]], labels: Sequence[str], tools: Sequence[Tools] | None = None
) -> list[list[list[int]]]:
    """Per prompt, the token ids of every label as its answer, in context, end-of-turn token included.

    After a chat template's generation prompt, a label usually has the same tokens for every prompt. So all labels are encoded
    after the first prompt, and after each other prompt only the first label, to check that; if it differs, all are.
    """
    encoded: list[list[list[int]]] = []
    for messages, row_tools in zip(prompts, tools or [None] * len(prompts), strict=True):
        first_label = encode_answer(tokenizer, messages, labels[0], row_tools)
        if encoded and encoded[0][0] == first_label:
            encoded.append(encoded[0])
        else:
            encoded.append(
                [first_label, *(encode_answer(tokenizer, messages, label, row_tools) for label in labels[1:])]
            )
    return encoded
