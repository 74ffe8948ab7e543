"""The tables that benchmarks.step prints."""

from typing import Any

from benchmarks.measure import Ratio
from benchmarks.training import PARTS

Result = dict[str, Any]


def print_steps(result: Result) -> None:
    """Speeds by plugin set."""
    facts = result["machine"]
    encoder = "encoders run in the step" if result["encoder"] == "live" else "encoders' features for nothing"
    print(f"{facts['device']}, torch {facts['torch']}, {facts['threads']} threads, {facts['clock']}, {encoder}")
    print(
        f"\n{'step':<34}{'batch':>6}{'samples/s':>11}{'TFLOP/s':>9}{'MFU':>6}{'memory':>9}"
        f"{'speed / plain':>22}{'predicted':>11}{'realised':>10}{'first step':>12}"
    )
    for row in result["steps"]:
        name = f"{row['backbone']} {row['plugins']} {row['compile']} {row['precision']}"
        mfu = f"{row['mfu']:.0%}" if row["mfu"] else "-"
        memory = f"{row['peak_memory_bytes'] / 2**30:.1f} GB" if row["peak_memory_bytes"] else "-"
        print(
            f"{name:<34}{row['batch_size']:>6}{row['samples_per_second']:>11.2f}{row['tflops_per_second']:>9.3f}"
            f"{mfu:>6}{memory:>9}{Ratio(**row['speed_over_plain'])!s:>22}{row['flops_predict']:>11.2f}"
            f"{row['realised']:>10.0%}{row['first_step_seconds']:>10.1f} s"
        )


def print_split(result: Result) -> None:
    """Shares of the step by part."""
    print(f"\n{'split':<34}" + "".join(f"{part:>11}" for part in PARTS))
    for row in result["steps"]:
        name, whole = f"{row['backbone']} {row['plugins']} {row['compile']}", sum(row["split_seconds"].values())
        print(f"{name:<34}" + "".join(f"{row['split_seconds'][part] / whole:>11.2%}" for part in PARTS))


def print_ladder(result: Result) -> None:
    """What each gain adds."""
    print(f"\n{'ladder':<46}{'samples/s':>11}{'over the rung before':>24}{'over the peers':>24}")
    for row in result["ladder"]:
        name = f"{row['backbone']} {row['plugins']}: {row['name']}"
        gain, over = Ratio(**row["gain"]), Ratio(**row["over_peers"])
        print(f"{name:<46}{row['samples_per_second']:>11.2f}{gain!s:>24}{over!s:>24}")


def print_tokens(result: Result) -> None:
    """Speed of shuffled ids over sorted ones, and of a block for each token by their number, over all 256."""
    print(
        "\nrouting: gather and scatter by shuffled ids over sorted ones; a block's speed for each token over 256 tokens"
    )
    for row in result["tokens"]:
        print(f"{row['backbone']} {row['precision']}: shuffled {Ratio(**row['ids']['shuffled'])}")
        lengths = "  ".join(f"{length} tokens {Ratio(**ratio)}" for length, ratio in row["lengths"].items())
        print(f"  {lengths}")
