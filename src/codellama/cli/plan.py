"""`codellama plan`: what a model needs, where it fits and how fast it would be."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli.sizes import human_bytes, human_count, table
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError

if TYPE_CHECKING:
    from codellama.plan.hardware import Hardware
    from codellama.plan.subject import Subject

_FORMATS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1",
            "q4_0")  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama plan MODEL [options]"
    parser.description = (
        "Say what a model needs: memory by part and format, where it fits, how to lay it out over\n"
        "devices and the command for it, speed, users, cost and energy; and what training costs.\n"
        "Only sizes are read. Speeds are a roofline: docs/scale.md has the arithmetic."
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a member of the family (7B, 34B-Instruct), `all` for the "
        "twelve, nano, a hub name, or the path of a folder, .pth or .gguf file")  # fmt: skip
    add("--gpu", metavar="NAME", help="h100, a100, l4, ...; default: a laptop's CPU")
    add("--count", type=_count, metavar="N", help="devices (default: 1)")
    add("--hardware", type=Path, metavar="F", help="a TOML file of another device's figures")
    add("--measure", action="store_true", help="measure this machine and plan for it")
    add("--threads", type=_count, metavar="N", help="of --measure (default: one for each core)")
    add("--context", type=_tokens, metavar="N", help="tokens of prompt and reply kept, such as 16k "
        "(default: the model's)")  # fmt: skip
    add("--users", type=_count, default=1, metavar="N", help="replies being written at a time "
        "(default: 1)")  # fmt: skip
    add("--prompt", type=_tokens, default=1000, metavar="N", help="tokens of a prompt (default: "
        "1000)")  # fmt: skip
    add("--reply", type=_tokens, default=200, metavar="N", help="tokens of a reply (default: 200)")
    add("--latency", type=_positive, default=50, metavar="MS", help="from one token of a user to "
        "the next, at most (default: 50)")  # fmt: skip
    add("--format", choices=_FORMATS, help="number format on a CPU (default: as stored, or the "
        "largest that fits)")  # fmt: skip
    add("--kv-cache", choices=("f32", "f16", "q8_0"), help="keys and values on a CPU (default: f16 "
        "beside quantised weights, else f32)")  # fmt: skip
    add("--price", type=_positive, metavar="D", help="dollars an hour and device")
    add("--train", action="store_true", help="plan training instead: the paper's stages of a "
        "member")  # fmt: skip
    add("--tokens", type=_tokens, metavar="N", help="tokens to train on, such as 10b, instead of "
        "the paper's (default for other models: 20 a parameter)")  # fmt: skip
    add("--mfu", type=_share, default=0.43, metavar="S", help="share of the peak that training "
        "reaches (default: 0.43)")  # fmt: skip
    add("--json", action="store_true", help="one JSON object, or one a line for `all`")


def run(args: Namespace) -> int:
    from codellama.model.family import MEMBERS
    from codellama.plan.subject import find

    if sum((args.gpu is not None, args.hardware is not None, args.measure)) > 1:
        raise UsageError("give one of --gpu, --hardware and --measure")
    console = Console.open(args)
    if args.model == "all":
        if args.measure:
            raise UsageError("--measure is for one model")
        _all(args, [find(member.name) for member in MEMBERS], console)
        return 0
    subject = find(args.model)
    found = _plan(args, subject, _hardware(args, subject))
    if args.json:
        console.write(json.dumps(found) + "\n")
    else:
        console.write((_training_page if args.train else _page)(found))
    return 0


def _plan(args: Namespace, subject: Subject, hardware: Hardware) -> dict[str, Any]:
    from codellama.plan import report
    from codellama.plan.speed import Load
    from codellama.quant.formats import Format

    wishes = report.Wishes(
        context=args.context or subject.config.max_seq_len,
        n_users=args.users,
        load=Load(prompt=args.prompt, reply=args.reply),
        token_s=args.latency / 1000,
        mix=args.format,
        kv_cache=None if args.kv_cache is None else Format(args.kv_cache.upper()),
        mfu=args.mfu,
    )
    if args.train:
        return report.train(subject, hardware, wishes, args.tokens)
    return report.make(subject, hardware, wishes)


def _hardware(args: Namespace, subject: Subject) -> Hardware:
    from codellama.plan import hardware as hw

    if args.hardware is not None:
        found = hw.read(args.hardware)
    elif args.measure:
        from codellama.bench.run import default_threads
        from codellama.engine.plan import free_memory
        from codellama.plan.memory import read_bytes

        formats = subject.formats if args.format is None else subject.in_mix(args.format)
        found = hw.this_machine(
            read_bytes(subject.config, formats),
            n_threads=args.threads or default_threads(),
            memory=free_memory(),
        )
    elif args.gpu is not None:
        found = hw.gpus(args.gpu, 1)
    else:
        found = hw.gpus("a100", 1) if args.train else hw.LAPTOP
    if args.count is not None:
        found = replace(found, count=args.count)
    return found if args.price is None else replace(found, price=args.price)


def _all(args: Namespace, subjects: list[Subject], console: Console) -> None:
    from codellama.errors import OutOfMemory

    rows = [["model", "bf16", "q8_0", "q4_0", "kv / 1000", "devices", "layout", "tok/s", "users"]]
    if args.train:
        rows = [["model", "tokens", "hours", "days", "state", "kWh", "t CO2", "$"]]
    last: dict[str, Any] = {}
    for subject in subjects:
        try:
            found = _plan(args, subject, _hardware(args, subject))
        except OutOfMemory as error:
            found = {"model": subject.name, "error": str(error)}
        if args.json:
            console.write(json.dumps(found) + "\n")
        elif args.train:
            rows.append(_training_row(found))
        else:
            rows.append(_row(subject, found))
        last = found
    if not args.json:
        console.write(table(rows))
        if args.train:
            console.write("\n" + _family_line(last))


def _row(subject: Subject, found: dict[str, Any]) -> list[str]:
    from codellama.plan import memory
    from codellama.quant.formats import Format

    sizes = [human_bytes(memory.gguf_bytes(subject, mix)) for mix in ("bf16", "q8_0", "q4_0")]
    kv = human_bytes(1000 * memory.kv_bytes(subject.config, Format.F16))
    if "error" in found:
        return [subject.name, *sizes, kv, "-", "does not fit", "-", "-"]
    lay = found["layout"]
    shape = f"{lay['tensor_parallel']} x {lay['pipeline_parallel']} x {lay['replicas']}"
    devices = lay["tensor_parallel"] * lay["pipeline_parallel"] * lay["replicas"]
    return [subject.name, *sizes, kv, str(devices), f"{shape} {found['format']}",
            f"{found['decode_tok_s']:.0f}", str(found["users"])]  # fmt: skip


def _training_row(found: dict[str, Any]) -> list[str]:
    tokens = sum(stage["tokens"] for stage in found["stages"])
    return [
        found["model"], f"{tokens / 1e9:,.0f}B", f"{found['device_hours']:,.0f}",
        f"{found['days']:,.0f}", human_bytes(found["state_bytes"]), f"{found['kwh']:,.0f}",
        f"{found['tonnes_co2']:,.1f}", f"{found['dollars']:,.0f}",
    ]  # fmt: skip


def _page(found: dict[str, Any]) -> str:
    hardware, lay = found["hardware"], found["layout"]
    parts = ", ".join(f"{k.replace('_', ' ')} {human_bytes(n)}"
                      for k, n in found["weights"].items())  # fmt: skip
    page = (
        f"{found['model']}: {human_count(found['parameters'])} parameters, stored as "
        f"{found['stored']}: {parts}\n\n"
        "memory of this program's CPU engine\n"
    )
    rows = [["format", "file", "weights", "one context", "workspace", "process", "in all"]]
    for name, entry in found["formats"].items():
        rows.append(
            [name, human_bytes(entry["gguf_bytes"])]
            + [human_bytes(entry[f"resident_{part}"])
               for part in ("weights", "kv_cache", "workspace", "process")]
            + [human_bytes(entry["resident"])]
        )  # fmt: skip
    page += table(rows) + "\n"
    what = "measured" if hardware["is_measured"] else "assumed"
    page += (
        f"on {hardware['count']} x {hardware['name']} ({human_bytes(int(hardware['memory']))}, "
        f"{hardware['bandwidth'] / 1e9:.0f} GB/s and {hardware['peak'] / 1e12:.3g} TOP/s {what}, "
        f"of which {hardware['read_share']:.0%} and {hardware['peak_share']:.0%} are reached)\n"
    )
    resident = lay["resident"]
    rows = [
        ["format", found["format"]],
        ["layout", f"tensor parallel {lay['tensor_parallel']}, pipeline parallel "
                   f"{lay['pipeline_parallel']}, {lay['replicas']} replicas"],
        ["memory of a replica", f"{human_bytes(lay['resident_total'])}: weights "
         f"{human_bytes(resident['weights'])}, one context {human_bytes(resident['kv_cache'])}, "
         f"workspace {human_bytes(resident['workspace'])}, process "
         f"{human_bytes(resident['process'])}"],
        ["cache", f"{lay['cached_tokens']:,} tokens a replica"],
        ["reading prompts", f"{found['prefill_tok_s']:,.0f} tokens/s: "
         f"{found['load']['prompt']} tokens in {found['first_token_s']:.2f} s"],
        ["one reply", f"{found['decode_tok_s']:,.1f} tokens/s"],
        ["users at a time", f"{found['users']:,} with a token each "
         f"{1000 * found['token_s']:.0f} ms ({found['users_per_replica']:,} a replica), "
         f"prompts of {found['load']['prompt']} and "
         f"replies of {found['load']['reply']}"],
    ]  # fmt: skip
    if "per_million" in found:
        each = found["per_million"]
        rows.append(["a million tokens", f"$ {each['dollars']:.2f}, {each['kwh']:.2f} kWh"])
        if found["users_asked"] > found["users"]:
            rows.append(["for the users asked", f"{found['replicas_needed']} replicas, "
                         f"{found['devices_needed']} devices"])  # fmt: skip
    else:
        rows.append(["", "not even one user gets tokens that quickly: allow more --latency"])
    rows.append(["command", found["command"]])
    return page + table(rows, n_left=2)


def _training_page(found: dict[str, Any]) -> str:
    hardware = found["hardware"]
    rows = [[f"stage {stage['name']}", f"{stage['tokens'] / 1e9:,.1f}B tokens in rows of "
             f"{stage['row_length']}"] for stage in found["stages"]]  # fmt: skip
    rows += [
        ["arithmetic", f"{found['flop']:.3g} operations, at {found['mfu']:.0%} of "
                       f"{hardware['peak'] / 1e12:.0f} TFLOP/s"],
        ["time", f"{found['device_hours']:,.0f} hours of {hardware['name']}; {found['days']:,.1f} "
                 f"days on {hardware['count']}"],
        ["memory", f"{human_bytes(found['state_bytes'])} of weights, gradients and AdamW's moments "
                   f"over all devices, {human_bytes(found['row_bytes'])} of activations each; "
                   f"{found['devices_needed'] or 'no number of'} devices hold that"],
        ["cost", f"$ {found['dollars']:,.0f}"],
        ["energy", f"{found['kwh']:,.0f} kWh, {found['tonnes_co2']:,.2f} t CO2"],
    ]  # fmt: skip
    return (
        f"{found['model']}: {human_count(found['parameters'])} parameters\n\n"
        + table(rows, n_left=2)
        + "\n"
        + _family_line(found)
    )


def _family_line(found: dict[str, Any]) -> str:
    family = found["family"]
    return (
        f"check: all twelve members come to {family['a100_hours']:,.0f} hours of A100 and "
        f"{family['tonnes_co2']:.1f} t at {found['mfu']:.0%}; the paper reports "
        f"{family['paper_hours']:,} and {family['paper_tonnes']}\n"
    )


def _count(text: str) -> int:
    value = _tokens(text)
    if value < 1:
        raise ArgumentTypeError(f"{text} is no number of things")
    return value


def _tokens(text: str) -> int:
    """16k is 16384, as contexts are named; 10b is ten thousand million, as corpora are."""
    scale = {"k": 1024, "m": 1_000_000, "b": 1_000_000_000, "t": 1_000_000_000_000}
    number, factor = text.lower(), 1
    if number[-1:] in scale:
        number, factor = number[:-1], scale[number[-1]]
    try:
        value = int(float(number) * factor)
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise ArgumentTypeError(f"{text!r} is no number of tokens, such as 4096, 16k or 10b")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value
