"""python -m reidnb ...: what the batch, a cluster or a machine without Jupyter calls."""

import argparse
import ast
import logging
import sys
from pathlib import Path


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m reidnb", description="Person re-identification in notebooks: the batch's commands"
    )
    commands = parser.add_subparsers(required=True)

    def add(function, help):
        sub = commands.add_parser(function.__name__, help=help, description=help)
        sub.set_defaults(function=function)
        return sub.add_argument

    arg = add(check, "compare a dataset's folder with the published counts")
    arg("name")
    arg("--root", help="the dataset's folder (default: REIDNB_DATA)")

    arg = add(run, "train and test one recipe; runs that are kept are loaded")
    arg("recipe")
    arg("--dataset", default="synthetic")
    arg("--profile", default="quick")
    arg("--seeds", type=int, default=1, help="how many seeds, from 0 on (default 1)")
    arg("--device", default="auto")
    arg("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of the recipe or options of the dataset")

    arg = add(tables, "write the tables from the kept runs (runs, attributes, claims), and the README's")
    arg(
        "--out", type=Path, default=Path("results"), help="a folder (default: results; only then the README is renewed)"
    )

    add(draw, "draw the built-in world and keep it, so that notebooks open it at once")

    arg = add(world, "write the built-in world as JPEG files in Market-1501's layout")
    arg("folder", type=Path)
    arg("--seed", type=int, default=0)

    arg = add(styles, "train the StarGANs that ship with the package where they are not there, and measure them all")
    arg("--device", default="auto")

    arg = add(pretrain, "train a small backbone on a world of its own: the weights that ship with the package")
    arg("model", nargs="?", default="small", choices=("small", "small_xception"))
    return parser.parse_args(arguments)


def check(args):
    from reidnb.datasets.published import check

    table = check(args.name, args.root)
    print(table.to_string(index=False))
    if not table.agrees.fillna(True).all():
        sys.exit(f"{args.name}: the counts differ from the published ones; is it whole, and the version they counted?")


def run(args):
    from reidnb.experiments import run
    from reidnb.tables import run_name

    changes = dict(_assignment(text) for text in args.set)
    for seed in range(args.seeds):
        result = run(args.recipe, args.dataset, args.profile, seed, args.device, **changes)
        about = f"{run_name(args.recipe, result.changes)} on {args.dataset}, seed {result.seed}"
        print(f"{about}: {result.scores}; {result.seconds:.0f} s", flush=True)


def tables(args):
    from reidnb import experiments
    from reidnb.tables import (
        count_verdicts,
        judge,
        markdown,
        read_runs,
        render_between,
        show_claims,
        summarise,
        write_runs,
    )

    runs = experiments.results()
    write_runs(runs, args.out / "runs.csv")
    write_runs(experiments.statements(), args.out / "attributes.csv")
    runs = read_runs(args.out / "runs.csv")
    judged = judge(runs)
    ledger = markdown(show_claims(judged))
    for name, text in {"results": markdown(summarise(runs)), "claims": ledger}.items():
        (args.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    if args.out == Path("results") and Path("README.md").exists():
        render_between("README.md", "results", markdown(summarise(runs[runs.changes == ""]).drop(columns="changes")))
        render_between("README.md", "claims", ledger)
        verdicts = count_verdicts(judged).rename_axis("").reset_index()
        render_between("README.md", "verdicts", markdown(verdicts))
    print(f"{len(runs)} runs: {args.out / 'runs.csv'}, {args.out / 'results.md'}, {args.out / 'claims.md'}")


def draw(args):
    from reidnb.datasets import open_dataset
    from reidnb.recipes import RECIPES, recipe

    for size in sorted({None, *(recipe(name).size for name in RECIPES)}, key=str):
        open_dataset("synthetic", size=size)


def world(args):
    from reidnb.synthetic import make_world, write_market1501

    write_market1501(make_world(seed=args.seed), args.folder)


def styles(args):
    import shutil

    from reidnb.datasets import open_dataset
    from reidnb.experiments import measure_styles
    from reidnb.stargan import PAINTED, SHIPPED, StarGAN, painter_of
    from reidnb.tables import markdown, write_runs

    for name, reconstruction in PAINTED:
        data, plan = open_dataset(name, size=(64, 32)), StarGAN(reconstruction=reconstruction)
        painter = painter_of(data.train, name, data.options, plan, device=args.device)
        if painter.path.parent != SHIPPED:
            SHIPPED.mkdir(exist_ok=True)
            shutil.copy(painter.path, SHIPPED / f"{name}-{reconstruction:g}.safetensors")
    found = measure_styles(device=args.device)
    write_runs(found, Path("results") / "styles.csv")
    print(markdown(found))


def pretrain(args):
    from reidnb.pretraining import pretrain

    pretrain(args.model)


def _assignment(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments=None):
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    args = parse(arguments)
    try:
        args.function(args)
    except (ValueError, TypeError, OSError) as problem:
        print(f"reidnb {args.function.__name__}: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
