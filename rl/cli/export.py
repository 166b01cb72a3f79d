"""`redraft export`."""

from typing import Annotated

import typer

from redraft.rl.cli.paths import home


def export(
    run: Annotated[
        str,
        typer.Argument(
            parser=home,
            metavar="MODEL",
            help="Run folder (its newest policy), checkpoint, policy folder, or owner/name on the hub (@revision).",
        ),
    ],
    out: Annotated[str, typer.Option(parser=home, metavar="FOLDER", help="Folder to write.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float64; default: as trained.")] = "",
    step: Annotated[int, typer.Option(help="Checkpoint of this step instead of the newest.")] = 0,
    merge: Annotated[bool, typer.Option("--merge", help="Add LoRA adapters to their weights, in fp32.")] = False,
) -> None:
    """Write a policy as a Hugging Face folder: config, tokenizer, safetensors with the published names.

    A policy that was trained by LoRA adapters is written as these adapters, in PEFT's format, unless --merge adds them
    to the weights.
    """
    from pathlib import Path

    from redraft.rl.files import check_output_folder, signals_unwind
    from redraft.rl.models.registry import copy_policy, has_adapter_files, load_policy, load_text_side, save_policy
    from redraft.rl.run_folder.checkpoint import find_policy
    from redraft.rl.run_folder.files import check_no_run_file
    from redraft.rl.stages.model_card import describe_export

    source = find_policy(Path(run), step)
    check_no_run_file(check_output_folder(out))
    if source.resolve() == Path(out).resolve():
        raise FileExistsError(f"{out}: is the policy to export; give another folder")
    adapters = has_adapter_files(source)
    if merge and not adapters:
        raise ValueError(f"{source}: holds no adapters to merge; leave --merge out")
    if adapters and dtype and not merge:
        raise ValueError("--dtype: adapters are written as they were trained; add --merge, or leave it out")
    tokenizer, _ = load_text_side(str(source))
    with signals_unwind():
        if adapters and not merge:
            copy_policy(source, out)
        else:
            save_policy(load_policy(str(source), dtype or None, "cpu"), out, tokenizer)
        described = describe_export(source, Path(out), run, dtype, tokenizer)
    typer.echo(f"{source} written to {out}" + "; your README.md there stays as it is" * (not described))
