"""What stored outputs of the references prove about each recipe: forward, objective, optimizer, or nothing.

An experiment is proven by a folder whose reader builds the same classes, and by a stored training step whose experiment
has the same losses, adversary and optimizer; sizes and their settings may differ. tests/parity/test_proven.py holds
both tables against the folders, and `imtok parity FOLDER` shows that they are met.
"""

from fnmatch import fnmatchcase

FORWARD = {  # experiments: the folder of stored outputs of a whole forward pass
    "dualtoken_*": "dualtoken",
    "dualvitok_*": "dualvitok",
    "flextok_*": "flextok",
    "gigatok_*": "gigatok",
    "ibq_*": "ibq",
    "imagefolder": "imagefolder",
    "instella_bae": "instella_bae",
    "llamagen_vq16": "llamagen_vq16",
    "llamagen_vq8": "llamagen_vq8",
    "maskgit_vqgan": "maskgit_vqgan",
    "one_d_piece_*": "one_d_piece",
    "open_magvit2_*": "open_magvit2",
    "ta_titok_*_vq": "ta_titok",
    "titok_*/stage?": "titok",
    "titok_*_vq": "titok_single_stage",
    "tokenflow_b*": "tokenflow_clip",
    "tokenflow_xl": "tokenflow_siglip",
    "unitok*": "unitok",
    "vqgan_*": "vqgan",
    "wetok_general_f32_generative": "wetok_gan",
    "wetok_*": "wetok",
    "xqgan_msbr*": "xqgan_bsq",
    "xqgan_msvr*": "imagefolder",
    "xqgan_vq_*": "xqgan_vq",
}
RECONSTRUCTED = ("titok_*_vae",)  # their only stored forward pass is that of the training step
TRAINING_STEP = {  # experiments: the folder of one whole stored update
    "dualtoken_256": "dualtoken",
    "dualtoken_384": "dualtoken",
    "gigatok_s?": "gigatok",
    "gigatok_bl": "gigatok",
    "ibq_*": "ibq",
    "imagefolder": "imagefolder",
    "llamagen_vq*": "llamagen_vq",
    "one_d_piece_*/stage1": "one_d_piece_stage1",
    "one_d_piece_*/stage2": "one_d_piece_stage2",
    "open_magvit2_128": "open_magvit2",
    "open_magvit2_256": "open_magvit2",
    "open_magvit2_pretrain_262144": "open_magvit2",
    "ta_titok_*_vq": "ta_titok_vq",
    "titok_*_vae": "titok_vae",
    "titok_*/stage1": "titok_stage1",
    "titok_*/stage2": "titok_stage2",
    "tokenflow_b": "tokenflow",
    "tokenflow_l": "tokenflow",
    "tokenflow_xl": "tokenflow",
    "unitok*": "unitok",
    "vqgan_*": "vqgan",
    "wetok_general_f32_generative": None,  # its losses are others
    "wetok_*": "wetok",
    "xqgan_msvr*": "imagefolder",
    "xqgan_vq_*": "xqgan_vq",
}


def proven(experiment: str) -> list[str]:
    """Some of forward, objective and optimizer."""
    forward = folder_of(experiment, FORWARD) or any(fnmatchcase(experiment, pattern) for pattern in RECONSTRUCTED)
    step = folder_of(experiment, TRAINING_STEP)
    return (["forward"] if forward else []) + (["objective", "optimizer"] if step else [])


def folder_of(experiment: str, table: dict[str, str] | dict[str, str | None]) -> str | None:
    """Of the first pattern that fits."""
    return next((folder for pattern, folder in table.items() if fnmatchcase(experiment, pattern)), None)
