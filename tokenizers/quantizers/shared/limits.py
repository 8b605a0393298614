"""Ranges that the settings of many quantizers share; None is a setting that is off."""


def check_positive(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value}: a number above 0")


def check_not_negative(**settings: float) -> None:
    for name, value in settings.items():
        if not value >= 0:
            raise ValueError(f"{name}={value}: a number of 0 or more")


def check_share(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: a share, from 0 to 1")


def check_below_one(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value}: from 0 to below 1")
