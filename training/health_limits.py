"""Limits of logged training values and the settings to change beyond them, for training and `imtok doctor`."""

USAGE = 0.1  # share of the codes in use, below
GAN_WEIGHT = 1e3  # adaptive, above
DISCRIMINATOR_LOSS = 0.02  # below: nothing is left to learn from it
DATA_WAIT = 0.3  # share of the time, above

REMEDIES = {
    "usage": "tokenizer/quantizer=ema_vq, tokenizer.quantizer.unit_length=true, tokenizer.quantizer.revive_below=0.1, "
    "or a smaller tokenizer.quantizer.codebook_size",
    "gan_weight": "adversary.adaptive.maximum=10, or adversary.adaptive=null with adversary.weight=0.1",
    "gan_discriminator": "'adversary.lecam={_target_: imtok.losses.adversarial.lecam.LeCam, weight: 0.001}', a slower "
    "discriminator ('adversary.optimizer={name: adam, lr: 5.0e-5, betas: [0.5, 0.9]}'), or a later adversary.start",
    "data_wait": "data.num_workers higher, or smaller files on a nearer disk",
}
