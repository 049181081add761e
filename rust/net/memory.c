// SPDX-License-Identifier: GPL-2.0
/*
 * What connections hold, in pages, and whether TCP is short of memory; see
 * rust/net/memory.rs.
 */
#include <linux/mm.h>
#include <linux/percpu_counter.h>
#include <net/sock.h>
#include <net/proto_memory.h>
#include <net/tcp.h>

#include "bindings.h"

static struct percpu_counter squall_pages;

/* What a CPU keeps to itself. */
#define PAGES_BATCH 64

/* Init of the module. */
int squall_memory_start(void)
{
	return percpu_counter_init(&squall_pages, 0, GFP_KERNEL);
}

void squall_memory_stop(void)
{
	percpu_counter_destroy(&squall_pages);
}

/* Any context, as all that follow. */
void squall_memory_add(s64 pages)
{
	percpu_counter_add_batch(&squall_pages, pages, PAGES_BATCH);
}

/* Looks at every CPU's part if what is known at once is too close to @pages. */
bool squall_memory_reaches(s64 pages)
{
	return __percpu_counter_compare(&squall_pages, pages, PAGES_BATCH) >= 0;
}

/* Exactly: looks at every CPU's part. */
s64 squall_memory_sum(void)
{
	return percpu_counter_sum(&squall_pages);
}

u64 squall_memory_total(void)
{
	return totalram_pages();
}

/*
 * TCP has more than net.ipv4.tcp_mem's second number, and not yet less than the
 * first one again.  TCP notices the latter when it takes or gives memory; if
 * nothing is left to do that, the numbers tell.
 */
bool squall_tcp_pressed(void)
{
	return READ_ONCE(tcp_memory_pressure) &&
	       proto_memory_allocated(&tcp_prot) >=
		       READ_ONCE(tcp_prot.sysctl_mem[0]);
}

/* What all TCP sockets of the host have together. */
s64 squall_tcp_pages(void)
{
	return proto_memory_allocated(&tcp_prot);
}
