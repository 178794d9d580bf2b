"""Xen as the guest hypervisor (`make run GUEST=xen`): what L2 runs, and what its run has to say.

disk.py builds the disk with Xen and dom0 and the one with Xen's programs and the nested guest, watch.py reads what
Xen, dom0 and the nested guest say, verdict.py judges it. What it shares with KVM is in ../kvm. Nothing third-party is
kept here: all comes from Debian's packages, unpacked by bench/setup.sh --for xen.
"""
