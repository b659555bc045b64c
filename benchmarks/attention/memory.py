"""How much memory training of additive attention takes, in a process of its own."""

from dataclasses import replace

import torch

from benchmarks.attention.calls import ADDITIVE_FUNCTIONS, make_output_grad, make_tensors
from benchmarks.attention.cases import AdditiveCase
from benchmarks.memory import measure_in_child, print_memory


def additive_training(case, name):
    """Return the arguments of measure_process, warmed up by one query of a row a thread."""

    def training(case):
        tensors = make_tensors(case)
        return lambda: ADDITIVE_FUNCTIONS[name](*tensors), tensors, make_output_grad(case)

    return training(replace(case, B=torch.get_num_threads(), Tq=1)), training(case)


def memory_of_child(case, name, threads):
    """Return {"growth": bytes, "peak": bytes} of additive attention's training in a new process."""
    return measure_in_child(__name__, case, name, threads)


if __name__ == "__main__":
    print_memory(additive_training, AdditiveCase, ADDITIVE_FUNCTIONS)
