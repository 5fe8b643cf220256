"""Attribution: paths, rules, Markov chains, Shapley values, and what channels and actions caused."""
