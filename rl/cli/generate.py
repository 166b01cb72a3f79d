"""`redraft generate`."""

from typing import Annotated

import typer

from redraft.rl.cli.paths import home, tell


def generate(
    model: Annotated[
        str,
        typer.Option(
            parser=home,
            metavar="MODEL",
            help="Policy folder, run folder (its newest policy), or owner/name of a model on the hub (@revision).",
        ),
    ],
    prompts: Annotated[
        str,
        typer.Option(
            parser=home, metavar="FILE", help="JSONL rows with `prompt` (text or chat messages) or `prompt_ids`."
        ),
    ],
    out: Annotated[str, typer.Option(parser=home, metavar="FILE", help="JSONL file to write.")],
    mode: Annotated[
        str | None,
        typer.Option(
            help="q (careful), s (fast) or llada2.0 (no editing); default: as the model's generation_config.json says,"
            " else q."
        ),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Unmask above this probability.")] = None,
    editing_threshold: Annotated[float | None, typer.Option(help="Edit above this probability; 1.0: never.")] = None,
    max_post_steps: Annotated[int | None, typer.Option(help="Mask-free forwards allowed per block.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 256,
    block_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens per block; default: what the model was trained with.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0: greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k most probable tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the nucleus with this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    editing_window: Annotated[
        int, typer.Option(min=1, help="Blocks that are open to edits when a block is final; 1 opens no earlier block.")
    ] = 1,
    slots: Annotated[int, typer.Option(min=1, help="Completions decoded together.")] = 64,
    trace: Annotated[bool, typer.Option("--trace", help="Write every action of the decoder too.")] = False,
) -> None:
    """Complete prompts with the editing decoder."""
    from pathlib import Path

    from redraft.rl.files import check_output_file
    from redraft.rl.monitor.display import progress
    from redraft.rl.run_folder.checkpoint import find_policy
    from redraft.rl.stages.generate import decode_settings, run_generate

    check_output_file(out)
    given = {
        "max_completion_length": max_new_tokens,
        "block_length": block_length,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "editing_window": editing_window,
        "threshold": threshold,
        "editing_threshold": editing_threshold,
        "max_post_steps": max_post_steps,
    }
    policy = str(find_policy(Path(model)))
    decode = decode_settings(policy, mode, given)
    with progress("generate") as advance:
        summary = run_generate(
            policy,
            prompts,
            out,
            decode,
            seed=seed,
            dtype=dtype,
            device=device,
            slots=slots,
            trace=trace,
            advance=advance,
        )
    tell(summary, out)
