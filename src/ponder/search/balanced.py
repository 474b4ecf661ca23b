class Balanced:
    pass
