def seed_of(*a):
    return 0
