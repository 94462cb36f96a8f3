"""normbench in Python: what the commands do, in the same words. `import normbench` offers it all.

    import normbench as nb

    run = nb.train(norm="gn", batch_size=8, data="synthetic", epochs=2)
    runs = nb.sweep(norm=["bn", "gn"], seed=range(3), data="synthetic", epochs=2)
    runs.table(by=["norm"])
    runs.plot("epochs")
    nb.report(runs, "out")

Settings are given by their names, `lr` and `batch_size`; those of sections in a mapping before
them, `nb.train({"norm.num_groups": 8}, norm="gn")`. A class may stand for its own name.
"""
