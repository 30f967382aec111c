"""`codellama cluster`: machines that work together, by Ray."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from codellama.cli import terminal
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama cluster up | status | down [options]"
    parser.description = (
        "Let machines work together, by Ray. `up` starts a cluster and says what other machines\n"
        "run to join it. Whoever has its token and reaches its ports can run programs there."
    )
    add = parser.add_argument
    add("what", choices=("up", "status", "down"), help="start or join, look, or leave")
    add("--join", metavar="HOST:PORT", help="join the cluster whose first machine this is")
    add("--host", metavar="H", help="address that the others reach this machine by")
    add("--port", type=int, metavar="N", help="port of a new cluster (default: 6379)")
    add("--cpus", type=int, metavar="N", help="cores to lend (default: all)")
    add("--gpus", type=int, metavar="N", help="GPUs to lend (default: all)")
    terminal.add_arguments(parser)


def run(args: Namespace) -> int:
    from codellama.cluster import nodes

    if args.what != "up" and (args.join or args.host or args.port):
        raise UsageError("--join, --host and --port are for `up`")
    if args.join and args.port:
        raise UsageError("--port is for a new cluster, and --join names one")
    console = Console.open(args)
    if args.what == "up":
        said = nodes.up(join=args.join, host=args.host, port=args.port or nodes.PORT,
                        cpus=args.cpus, gpus=args.gpus)  # fmt: skip
        if args.join is None and nodes.TOKEN.exists():
            console.say(f"other machines need a copy of {nodes.TOKEN} before they join")
        console.write(said + "\n")
    elif args.what == "status":
        console.write(nodes.status())
    else:
        nodes.down()
    return 0
