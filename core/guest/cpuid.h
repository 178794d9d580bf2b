/*
 * CPUID leaves that Strata itself answers. The interface for programs at any level above (strata-stat uses it):
 *   4000_0000h  KVM's signature, without any of KVM's features: Linux uses x2APIC without interrupt remapping only
 *               under a hypervisor that it knows
 *   4000_0100h  EAX = highest leaf, EBX ECX EDX = "StrataStrata"
 *   4000_0101h  EAX = version of this interface, EBX = level (1 = nearest the machine), ECX = CPUs, EDX = counters
 *   4000_0102h  in ECX: counter | CPU << 16 (FFh = all) | hop << 24; out: EAX, EBX = value low, high; ECX = 1 if valid
 *   4000_0103h  in ECX: counter | chunk << 16 | hop << 24; out: 16 bytes of its name in EAX, EBX, ECX, EDX
 *   4000_0104h  in ECX: marker (24 bits); every level prints its counters as a JSON line; out: EAX = 1 if this one did.
 *               For kernels; for programs as well with the boot option mark=any
 *   4000_0105h  EAX[0]: a VMCS that is not current is in its region, as it is now (core/cpu/vmcs_image.h): worth trying out
 * A hop count asks the Strata that many levels below; past the last one all registers answer 0.
 */
#ifndef STRATA_CPUID_H
#define STRATA_CPUID_H

#define CPUID_HYPERVISOR 0x40000000
#define CPUID_HYPERVISOR_LAST 0x4fffffff /* the rest is empty, whatever the machine below has there */
#define CPUID_KVM_FEATURES 0x40000001
#define CPUID_STRATA 0x40000100
#define CPUID_STRATA_INFO 0x40000101
#define CPUID_STRATA_COUNTER 0x40000102
#define CPUID_STRATA_NAME 0x40000103
#define CPUID_STRATA_MARK 0x40000104
#define CPUID_STRATA_VMCS 0x40000105
#define CPUID_STRATA_LAST CPUID_STRATA_VMCS
#define CPUID_STRATA_VERSION 1
#define CPUID_STRATA_HOP_SHIFT 24
#define CPUID_STRATA_ALL_CPUS 0xff

#include "core/lib/types.h"

/* Level of the Strata below this one; 0 when there is none. */
unsigned cpuid_level_below(void);
/* The machine is a hypervisor, and exits to it cost more than what Strata does by itself: another one, or a Strata on such a one. */
bool cpuid_is_hypervisor(void);

#endif
