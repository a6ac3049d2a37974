# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of commands: the module and function of each, as text; only the chosen is imported.

A function takes the arguments after the command's name, and returns the exit code. The module of a
stage of a workflow also has `make_parser()` and, where flags can be wrong in other ways,
`check_flags(flags)`, which raises ValueError: `workflow.preflight` checks stages with them.
"""

_WORKFLOW = "parti.workflow.run_workflow"
# Command -> (module, function, help line), grouped by the order of the workflow.
GROUPS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Data": {
        "scenes": ("parti.pipelines.draw_scenes", "run", "draw the built-in data set"),
        "clean": ("parti.pipelines.clean_pairs", "run", "filter, deduplicate and split pairs"),
        "vocab": ("parti.pipelines.train_vocabulary", "run", "train the text vocabulary"),
        "tokenize": ("parti.pipelines.tokenize_images", "run", "turn images into tokens"),
        "detokenize": ("parti.pipelines.detokenize", "run", "turn tokens back into pictures"),
    },
    "Models": {
        "perceptual": ("parti.pipelines.convert_perceptual", "run", "convert VGG16 weights"),
        "train": ("parti.engine.train", "main", "train any model from an experiment file"),
        "eval": ("parti.engine.eval", "main", "metrics of a checkpoint over a split"),
        "infer": ("parti.engine.infer", "main", "scores or predictions of a checkpoint"),
        "compile": ("parti.engine.compile", "main", "will it fit a pod, and how fast: no pod"),
        "export": ("parti.pipelines.export", "run", "gather trained parts into a bundle"),
    },
    "Images": {
        "prompts": ("parti.pipelines.choose_prompts", "run", "choose prompts to draw"),
        "generate": ("parti.pipelines.generate", "run", "prompts to reranked, upsampled images"),
        "app": ("parti.pipelines.app", "run", "a page that draws what is typed, row by row"),
        "gallery": ("parti.pipelines.draw_gallery", "run", "a page of images, or of two runs"),
        "evaluate": ("parti.pipelines.evaluate", "run", "measure generations and reconstructions"),
    },
    "All of it": {
        "workflow": (_WORKFLOW, "workflow", "run every stage of a workflow file that is stale"),
        "demo": (_WORKFLOW, "demo", "the whole workflow, tiny, on this machine"),
    },
}
COMMANDS = {name: row for group in GROUPS.values() for name, row in group.items()}
