"""What cuda_check.py says of PTX that computes nothing: a launch of such a kernel succeeds."""

import pytest

from cuda_check import empty_entries, read_entries

# As nvcc leaves it: parameters, directives, comments, a body in braces of its own.
ENTRY = """
	// .globl	{name}
.visible .entry {name}(
	.param .align 8 .b8 {name}_param_0[368]
)
.maxntid 256, 1, 1
.minnctapersm 1
{{
	.reg .b32 	%r<3>;
	.loc	1 7 0
{body}
}}
"""
WORK = "\tmov.u32 \t%r1, %tid.x;\n$L__BB0_1:\n\t{\n\tst.shared.u32 [%r1], %r1;\n\t}\n\tret;\n"
NOTHING = "\n\n\tret; // nothing else { }\n"
CLUSTER = "_Z8sequenceINS_4cuda4TierE1ELi16E"
GRID = "_Z8sequenceINS_4cuda4TierE2ELi16E"


def ptx(**bodies):
    names = {"cluster": CLUSTER, "grid": GRID, "step": "_Z4step"}
    head = ".version 9.0\n.target sm_90a\n.extern .shared .align 128 .b8 shared[];\n"
    return head + "".join(ENTRY.format(name=names[k], body=b) for k, b in bodies.items())


def test_entries_and_their_instructions():
    entries = read_entries(ptx(cluster=WORK, step=NOTHING))
    assert [(name, len(body)) for name, body in entries] == [(CLUSTER, 3), ("_Z4step", 1)]


@pytest.mark.parametrize("arch", ["80", "90a", "100a"])
def test_kernels_that_compute_are_not_empty(arch):
    assert empty_entries(ptx(cluster=WORK, grid=WORK, step=WORK), arch) == []


@pytest.mark.parametrize("arch", ["90", "90a", "100a", "120f"])
def test_an_empty_kernel_of_clusters_is_a_fault_where_clusters_are(arch):
    assert empty_entries(ptx(grid=WORK, cluster=NOTHING), arch) == [CLUSTER]


@pytest.mark.parametrize("arch", ["80", "89"])
def test_elsewhere_only_kernels_of_clusters_may_be_empty(arch):
    assert empty_entries(ptx(cluster=NOTHING, grid=NOTHING, step=WORK), arch) == [GRID]
