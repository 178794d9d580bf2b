"""KVM as the guest hypervisor (`make run GUEST=kvm`): what L2 runs, and what its run has to say.

disk.py builds L2's initramfs and the disk with QEMU and the nested guest, watch.py reads what L2
and the nested guest say, verdict.py judges it, rows.py runs the long tests. Nothing third-party is kept here: all comes from Debian's
packages, unpacked by bench/setup.sh --for kvm.
"""
