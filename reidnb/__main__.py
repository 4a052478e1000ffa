"""The command line, `reidnb` or `python -m reidnb`: what the batch, a cluster or a machine without Jupyter calls.

A command checks what it is given, calls the package and prints what came back. It exits with 0, with 2 and one line on
stderr where it was asked for something that cannot be, and with 130 after Ctrl-C.
"""

import argparse
import ast
import difflib
import linecache
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from reidnb import __version__
from reidnb.sources import dataset_names, profile_names, recipe_titles

HERE = Path(__file__).parent
SHOWN = (".jpg", ".jpeg", ".png", ".pdf", ".svg", ".webp")  # what a picture can be written as
DEVICES = ("auto", "cpu", "cuda", "mps")
KEPT = (  # the folders of the cache
    *("datasets", "tracklets", "runs", "embeddings", "pose", "pseudo", "styles"),
    *("figures", "pretraining", "drawn_people", "drawn_people_odd"),
)
# Of what lies there, what is ours: whoever lets REIDNB_CACHE be a folder of theirs may have a folder "figures" too.
OURS = re.compile(
    r"\.(npy|npz|lock|damaged|checkpoint|safetensors)$|^pose/mediapipe/|^figures/(.*/)?(\d\d_[^/]*|ranking)\.(png|jpg)$"
    r"|^drawn_people(_odd)?/.*\.(jpg|png|csv|onnx)$"
)

# ------------------------------------------------------------------------------------------------------ the arguments


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def one_of(what: str, names: Callable[[], Iterable[str]]) -> Callable[[str], str]:
    """An argument that must be one of `names()`; a refusal offers the nearest."""

    def check(given: str) -> str:
        known = list(names())
        if given not in known:
            near = difflib.get_close_matches(given, known, 1, cutoff=0.7)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise argparse.ArgumentTypeError(f"unknown {what} {given!r}: {hint}")
        return given

    return check


def domains(given: str) -> str:
    """A dataset, or two as source->target."""
    for part in given.split("->", 1):
        one_of("dataset", dataset_names)(part)
    return given


def count(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {given!r}")
    return int(given)


def assignment(given: str) -> tuple[str, object]:
    """NAME=VALUE -> the name, and the value as Python writes it or, where it is no literal, as the word it is. True,
    False and None are known however they are written."""
    name, equals, value = given.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"takes NAME=VALUE, as in epochs=20; got {given!r}")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


NETWORK = "the run whose network is used, trained where it is not kept (default: the shipped start, for a first look)"


def which_run(arg) -> None:
    """The arguments that say which run of a recipe is meant."""
    arg("--dataset", type=domains, default="synthetic", help="one, or two as 'source->target' (default: synthetic)")
    arg("--profile", type=one_of("profile", profile_names), default="quick")
    arg("--device", type=one_of("device", lambda: DEVICES), default="auto", help=", ".join(DEVICES))
    settings(arg, "fields of the recipe or options of the dataset")


def settings(arg, what: str) -> None:
    arg("--set", type=assignment, nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=what)


OF_A_RUN = ("recipe", "dataset", "profile", "seed", "device")


def chosen(args, *taken: str) -> dict:
    """What --set says; ValueError for what has an argument of its own."""
    for name, _ in args.set:
        if name in taken:
            own = {"seed": "--seeds"}.get(name, f"--{name}" if name != "recipe" else "the first word")
            raise ValueError(f"--set {name}=... is none of the settings: it has an argument of its own, {own}")
    return dict(args.set)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="reidnb", description="Person re-identification in notebooks: the batch's commands")
    parser.add_argument("--version", action="version", version=f"reidnb {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function, help, name=None):
        name = name or function.__name__
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(function=function, command=name)
        return sub.add_argument

    add(show_names, "what there is: recipes, datasets, profiles", "list")

    arg = add(check, "compare a dataset's folder with the published counts")
    arg("name", type=one_of("dataset", dataset_names))
    arg("--root", help="the dataset's folder (default: REIDNB_DATA)")
    settings(arg, "options of the dataset")

    arg = add(run, "train and test one recipe; runs that are kept are loaded")
    arg("recipe", type=one_of("recipe", recipe_titles))
    arg("--seeds", type=count, default=1, help="how many seeds, from 0 on (default: 1)")
    which_run(arg)

    arg = add(search, "who in a folder of pictures looks like this one: names, distances, and a picture of them")
    arg("query", type=Path)
    arg("folder", type=Path)
    arg("-k", type=count, default=10, help="how many (default: 10)")
    arg("--picture", type=Path, help="where the picture goes (default: figures/ranking.jpg in the cache)")
    arg("--recipe", type=one_of("recipe", recipe_titles), help=NETWORK)
    which_run(arg)

    arg = add(compare, "how far two pictures lie apart and, with --recipe, how likely they show one person")
    arg("a", type=Path)
    arg("b", type=Path)
    arg("--recipe", type=one_of("recipe", recipe_titles), help=NETWORK)
    which_run(arg)

    arg = add(keypoints, "find 14 key points, and the person's outline, on every picture below a folder, by mediapipe")
    arg("folder", type=Path)
    arg("--out", type=Path, help="the table (default: keypoints.csv in the folder, where datasets look for it)")
    arg("--python", type=Path, help="a Python that has mediapipe (default: an environment, made once in the cache)")
    arg("--only", nargs="+", default=[], metavar="PATTERN", help="these files alone, relative to the folder: 'query/*'")
    arg("--but", nargs="+", default=[], metavar="PATTERN", help="not these")

    arg = add(export, "write a trained network as ONNX, compared with torch")
    arg("recipe", type=one_of("recipe", recipe_titles))
    arg("path", type=Path, metavar="MODEL.onnx")
    which_run(arg)

    arg = add(tables, "write the tables from the kept runs: runs, attributes, claims")
    arg("--out", type=Path, help="a folder (default: in a checkout reidnb/results, and the README's tables with it)")

    add(draw, "draw the built-in world and keep it, so that notebooks open it at once")

    arg = add(world, "write the built-in world as JPEG files in Market-1501's layout")
    arg("folder", type=Path)
    arg("--seed", type=int, default=0)

    arg = add(styles, "train the generators that ship with the package where they are not there, and measure them all")
    arg("--device", type=one_of("device", lambda: DEVICES), default="auto", help=", ".join(DEVICES))

    arg = add(pretrain, "train a small backbone: the weights that ship with the package")
    arg("model", nargs="?", default="small", choices=("small", "small_xception"))

    arg = add(clean, "say what lies in the cache, and remove it")
    arg("--dry-run", action="store_true", help="only say it")

    if arguments and not arguments[0].startswith("-"):
        try:
            one_of("command", lambda: commands.choices)(arguments[0])
        except argparse.ArgumentTypeError as problem:
            parser.error(str(problem))
    return parser.parse_args(arguments)


# ------------------------------------------------------------------------------------------------------- the commands


def show_names(args):
    titles = recipe_titles()
    print("recipes")
    for name, title in titles.items():
        print(f"  {name:{max(map(len, titles))}}  {title}")
    print("datasets\n  " + "\n  ".join(dataset_names()))
    print("profiles\n  " + "\n  ".join(profile_names()))


def check(args):
    from reidnb.datasets.published import check_counts

    table = check_counts(args.name, args.root, **chosen(args, "name", "root"))
    print(table.to_string(index=False))
    if not table.agrees.fillna(True).all():
        sys.exit(f"{args.name}: the counts differ from the published ones; is it whole, and the version they counted?")


def run(args):
    from reidnb.experiments import run
    from reidnb.ledger import run_name

    for seed in range(args.seeds):
        result = run(args.recipe, args.dataset, args.profile, seed, args.device, **chosen(args, *OF_A_RUN))
        about = f"{run_name(args.recipe, result.changes)} on {args.dataset}, seed {result.seed}"
        print(f"{about}: {result.scores}; {result.seconds:.0f} s", flush=True)


def search(args):
    from reidnb import yours
    from reidnb.files import atomic_write, cache_root

    yours.check_files(args.query)  # before a network is trained
    if args.picture and (Path(args.picture).suffix.lower() not in SHOWN or Path(args.picture).is_dir()):
        raise ValueError(f"--picture is a file to be written, one of {', '.join(SHOWN)}; got {args.picture}")
    embedder = _embedder(args)
    for rank, one in enumerate(found := yours.search(args.query, args.folder, embedder, args.k), 1):
        name = str(one.file).encode(errors="backslashreplace").decode()  # a name may be no UTF-8
        print(f"{rank:4}  {one.distance:.3f}  {name}", flush=True)  # the picture takes seconds longer
    path = args.picture or cache_root() / "figures" / "ranking.jpg"
    figure = yours.picture(args.query, found[:20])  # a JPEG is 65,500 pixels wide at most
    atomic_write(path, lambda file: figure.savefig(file, dpi=120, bbox_inches="tight"))
    print(path)
    print(FIRST_LOOK * (not args.recipe), end="")


def compare(args):
    from reidnb import yours

    yours.check_files(args.a, args.b)
    embedder = _embedder(args)
    found = yours.compare_pictures(args.a, args.b, embedder)
    print(f"distance {found.distance:.3f} of 0 to 2")
    if not args.recipe:
        print(FIRST_LOOK, end="")
        return
    found = yours.calibrate_run(_trained(args)).read(found.distance)
    print(f"as frequent between pictures of one person as between two people's: {found.ratio:.3g} times")
    print(f"one person: {found.likely:.1%} likely, if half of such pairs are one person's")
    print(f"            {found.likely_among(99):.1%}, if one of a hundred candidates is")
    print(f"pairs of two people that lie as near: {found.nearer:.2%}")


def keypoints(args):
    from reidnb.pose_on_photographs import find_keypoints

    found = find_keypoints(args.folder, args.out, args.python, args.only, args.but)
    bodies = sum(body.points is not None for body in found.values())
    print(f"somebody was found on {bodies} of {len(found)} pictures ({bodies / max(1, len(found)):.1%})")
    print(args.out or args.folder / "keypoints.csv")


def export(args):
    from reidnb.export import check_onnx, export_onnx

    check_onnx(args.path)  # before a network is trained
    path = export_onnx(_trained(args), args.path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; pixels (N, 3, H, W) of 0 to 255 -> features, as torch has them")


FIRST_LOOK = (
    "by the shipped start, which learned from drawn people: for a first look. Train on photographs for more: "
    "reidnb run --help, and notebook 12\n"
)


def _embedder(args):
    from reidnb import yours

    if args.recipe:
        return yours.of_run(_trained(args), args.device)
    if args.set or (args.dataset, args.profile, args.device) != ("synthetic", "quick", "auto"):
        raise ValueError("--dataset, --profile, --device and --set say which run's network: name its --recipe too")
    return yours.shipped()


def _trained(args):
    from reidnb.experiments import run

    return run(args.recipe, args.dataset, args.profile, 0, args.device, **chosen(args, *OF_A_RUN))


def tables(args):
    from reidnb.ledger import write_tables

    checkout, readme = (HERE.parent / "pyproject.toml").exists(), None
    if args.out is None and checkout:
        args.out, readme = HERE / "results", HERE.parent / "README.md"
    elif args.out is None:
        args.out = Path("build") / "tables"
        print(f"reidnb is installed, not a checkout: the tables go to {args.out}; the package's own stay", flush=True)
    print(write_tables(args.out, readme))


def draw(args):
    from reidnb.datasets import open_dataset
    from reidnb.recipes import RECIPES, recipe

    for size in sorted({None, *(recipe(name).size for name in RECIPES)}, key=str):
        open_dataset("synthetic", size=size)


def world(args):
    from reidnb.files import require_space
    from reidnb.synthetic import make_world, write_market1501

    drawn = make_world(seed=args.seed)
    count, (height, width) = sum(map(len, drawn.shots.values())), drawn.size
    require_space(args.folder, count * height * width // 2, f"a world of {count} JPEG files", "name another folder")
    write_market1501(drawn, args.folder)


def styles(args):
    from reidnb.copies import measure_styles, ship
    from reidnb.ledger import markdown, write_runs

    ship(device=args.device)
    found = measure_styles(device=args.device)
    write_runs(found, HERE / "results" / "styles.csv")
    print(markdown(found))


def pretrain(args):
    from reidnb.pretraining import pretrain

    pretrain(args.model)


def clean(args):
    from reidnb.files import cache_root

    total, others = 0, []
    for folder in (cache_root() / name for name in KEPT):
        held = 0
        for path in [*sorted(folder.rglob("*"), reverse=True), folder] if folder.is_dir() else []:  # a folder last
            if path.is_dir() and not path.is_symlink():
                if not args.dry_run and not any(path.iterdir()):
                    path.rmdir()
            elif OURS.search(path.relative_to(folder.parent).as_posix()):
                held += path.lstat().st_size
                if not args.dry_run:
                    path.unlink()
            else:
                others.append(path)
        print(f"{held / 1e6:10,.1f} MB  {folder}")
        total += held
    print(f"{total / 1e6:10,.1f} MB  {'in all; nothing was removed' if args.dry_run else 'removed'}")
    if others:
        print(f"{len(others)} files there are not reidnb's, such as {others[0]}: they stay")


# ----------------------------------------------------------------------------------------------------------- in a line


def deliberate(problem: Exception) -> bool:
    """Whether somebody meant this error to be read: the disk refused something, or the package itself said `raise`.

    What a library or Python raises inside our code is a bug of ours, and a bug keeps its traceback.
    """
    place = problem.__traceback__
    while place.tb_next:
        place = place.tb_next
    file = place.tb_frame.f_code.co_filename
    said = linecache.getline(file, place.tb_lineno).lstrip().startswith("raise ")
    return isinstance(problem, OSError) or said and HERE in Path(file).parents


def main(arguments: list[str] | None = None) -> int:
    """Run one command -> the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        args.function(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\nreidnb {args.command}: stopped; started again it goes on where it was", file=sys.stderr)
        return 130
    except Exception as problem:
        if not deliberate(problem):
            raise
        print(f"reidnb {args.command}: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
