"""What each profile changes in every recipe: pictures, network, schedule; and where it does otherwise.

`quick` and `full` are the recipes as they stand. See docs/measured.md.
"""

from reidnb.batches import Augmentation

# What a profile changes in every recipe; SCRATCH adds to it where the start is random.
PROFILES = {
    "quick": {},
    "full": {},
    "laptop": {"size": (64, 32), "epochs": 12, "warmup": 1.0},
    "photo": {
        "model": "lite0",
        "weights": "imagenet",
        "size": (128, 64),
        "epochs": 20,
        "lr": 1.5e-3,
        "weight_decay": 0.4,
    },
    "paper": {
        "model": "resnet50",
        "weights": "imagenet",
        "size": (256, 128),
        "epochs": 120,
        "optimizer": "adam",
        "lr": 3.5e-4,
        "weight_decay": 5e-4,
        "warmup": 10.0,
        "schedule": "step",
        "steps": (40, 70),
        "augmentation": Augmentation(),
    },
}
SCRATCH = {"photo": {"weights": None, "lr": 3e-3}, "paper": {"weights": None, "epochs": 300, "schedule": "cosine"}}
# What is computed, not learned, changes under a profile by its size alone.
DESCRIBED = dict.fromkeys(("photo", "paper"), {"size": (128, 64)})
# The LSTM paper's own settings, section 3.2, under "paper"; it does not say how its rate falls.
LSTM_PAPER = {
    "epochs": 30,
    "lr": 3e-4,
    "warmup": 0.0,
    "steps": (20,),
    "smoothing": 0.0,
    "augmentation": Augmentation(pad=0.0, erase=0.0, crop=0.64),
    "flip_test": False,
}
OWN = {"paper": dict.fromkeys(("direct", "camera_style", "domain", "domain_lstm", "lstm_uda"), LSTM_PAPER)}
