// SPDX-License-Identifier: GPL-2.0
/*
 * net.squall.*: the defaults of timeouts and sizes.  A ctl_table is C; the
 * values are read through rust/net/sysctl.rs.
 *
 * Times are milliseconds, sizes bytes.  README.md documents every entry, and a
 * selftest compares it with this table.
 */
#include <linux/module.h>
#include <linux/sysctl.h>
#include <net/net_namespace.h>

#include "bindings.h"

struct squall_sysctl squall_sysctl = {
	.head_timeout = 10000,
	.keepalive_timeout = 60000,
	.body_timeout = 30000,
	.response_timeout = 60000,
	.connect_timeout = 5000,
	.queue_timeout = 5000,
	.send_timeout = 60000,
	.linger_timeout = 5000,
	.backoff_min = 50,
	.backoff_max = 1000,
	.first_byte_timeout = 10000,
	.request_line_max = 8192,
	.field_line_max = 16384,
	.head_max = 16384,
	.fields_max = 128,
	.chunk_line_max = 1024,
	.chunk_excess_max = 16384,
	.trailers_max = 8192,
	.trailer_fields_max = 32,
	.body_max_kib = 1048576,
	.body_rate_min = 100,
	.pipelined_max = 1000,
	.requests_max = 100000,
	.rcvbuf = 262144,
	.queue_high = 131072,
	.queue_low = 32768,
	.unsent_max = 131072,
	.splice_min = 1024,
	.connections_max = 131072,
	.waiters_max = 16384,
	.ws_handshake_timeout = 10000,
	.ws_idle_timeout = 3600000,
	.ws_lifetime_jitter = 10,
	.ws_send_timeout = 60000,
	.ws_half_closed_timeout = 30000,
	.ws_close_timeout = 5000,
	.ws_rate_burst = 1000,
	.drain = 10000,
	.connects_per_second = 10000,
	.tcp_keepalive_ms = 60000,
	.client_prefix_v4 = 32,
	.client_prefix_v6 = 64,
	.client_connections_burst = 100,
	.turned_away_max = 1024,
	.client_requests_burst = 100,
	.client_upgrades_burst = 20,
	.upgrades_burst = 1000,
	.limit_delay_max = 1000,
	.interim_max = 64,
	.sndbuf = 4194304,
};

/* Ranges of times that several rows have in common. */
static const unsigned int ms_min = 1, ms_max = 24 * 3600 * 1000;
static const unsigned int long_max = 30U * 24 * 3600 * 1000;

/*
 * As proc_douintvec_minmax(), and a refused value is named in the log: the
 * errno alone does not say what the range would have been.
 */
static int squall_douintvec(const struct ctl_table *table, int write,
			    void *buffer, size_t *lenp, loff_t *ppos)
{
	size_t len = *lenp;
	char text[24];
	int err;

	if (write) {
		strscpy(text, buffer, min(len + 1, sizeof(text)));
		strim(text);
	}
	err = proc_douintvec_minmax(table, write, buffer, lenp, ppos);
	if (err && write)
		pr_warn("net.squall.%s: '%s' refused, the range is %u to %u\n",
			table->procname, text,
			*(const unsigned int *)table->extra1,
			*(const unsigned int *)table->extra2);
	return err;
}

static const unsigned int line_lo = 8, head_lo = 1024, head_hi = 65000;
static const unsigned int fields_lo = 8, fields_hi = 256;
static const unsigned int chunk_lo = 8, chunk_hi = 32768;
static const unsigned int none = 0, any = UINT_MAX;
static const unsigned int buf_lo = 65536, buf_hi = 64 << 20;
static const unsigned int queue_lo = 4096, queue_hi = 16 << 20;
static const unsigned int splice_lo = 64, splice_hi = 65536;
static const unsigned int count_lo = 1, count_hi = 4 << 20;
static const unsigned int pipelined_hi = U16_MAX, requests_hi = (1 << 28) - 1;
static const unsigned int percent_hi = 100, ws_rate_hi = 1 << 30;
static const unsigned int connects_hi = 1000000;
static const unsigned int one = 1, prefix_v4_hi = 32, prefix_v6_hi = 128;
static const unsigned int rate_hi = 1000000, action_hi = 2;
static const unsigned int tunnel_kib_hi = 1 << 20, interim_hi = 1000;

#define ENTRY(member, lo, hi)						\
	{								\
		.procname = #member,					\
		.data = &squall_sysctl.member,				\
		.maxlen = sizeof(u32),					\
		.mode = 0644,						\
		.proc_handler = squall_douintvec,			\
		.extra1 = (void *)&(lo),				\
		.extra2 = (void *)&(hi),				\
	}
#define SPAN(member, lo, hi)						\
	{								\
		.procname = #member "_ms",				\
		.data = &squall_sysctl.member,				\
		.maxlen = sizeof(u32),					\
		.mode = 0644,						\
		.proc_handler = squall_douintvec,			\
		.extra1 = (void *)&(lo),				\
		.extra2 = (void *)&(hi),				\
	}
#define TIMEOUT(member) SPAN(member, ms_min, ms_max)
/* Those for which 0 is none at all. */
#define OPTIONAL(member) SPAN(member, none, long_max)

static struct ctl_table squall_table[] = {
	TIMEOUT(head_timeout),
	TIMEOUT(keepalive_timeout),
	TIMEOUT(body_timeout),
	TIMEOUT(response_timeout),
	TIMEOUT(connect_timeout),
	TIMEOUT(queue_timeout),
	TIMEOUT(send_timeout),
	TIMEOUT(linger_timeout),
	TIMEOUT(backoff_min),
	TIMEOUT(backoff_max),
	TIMEOUT(first_byte_timeout),
	ENTRY(request_line_max, line_lo, head_hi),
	ENTRY(field_line_max, line_lo, head_hi),
	ENTRY(head_max, head_lo, head_hi),
	ENTRY(fields_max, fields_lo, fields_hi),
	ENTRY(chunk_line_max, chunk_lo, chunk_hi),
	ENTRY(chunk_excess_max, chunk_lo, chunk_hi),
	ENTRY(trailers_max, line_lo, head_hi),
	ENTRY(trailer_fields_max, none, fields_hi),
	ENTRY(body_max_kib, none, any),
	ENTRY(body_rate_min, none, any),
	ENTRY(pipelined_max, count_lo, pipelined_hi),
	ENTRY(requests_max, count_lo, requests_hi),
	ENTRY(rcvbuf, buf_lo, buf_hi),
	ENTRY(queue_high, queue_lo, queue_hi),
	ENTRY(queue_low, queue_lo, queue_hi),
	ENTRY(unsent_max, queue_lo, queue_hi),
	ENTRY(splice_min, splice_lo, splice_hi),
	ENTRY(connections_max, count_lo, count_hi),
	ENTRY(waiters_max, count_lo, count_hi),
	TIMEOUT(ws_handshake_timeout),
	OPTIONAL(ws_idle_timeout),
	OPTIONAL(ws_client_idle_timeout),
	OPTIONAL(ws_server_idle_timeout),
	OPTIONAL(ws_lifetime),
	ENTRY(ws_lifetime_jitter, none, percent_hi),
	OPTIONAL(ws_send_timeout),
	OPTIONAL(ws_half_closed_timeout),
	TIMEOUT(ws_close_timeout),
	ENTRY(ws_bytes_rate, none, ws_rate_hi),
	ENTRY(ws_frames_rate, none, ws_rate_hi),
	TIMEOUT(ws_rate_burst),
	ENTRY(ws_rate_action, none, action_hi),
	SPAN(drain, none, ms_max),
	ENTRY(drain_restart, none, one),
	ENTRY(connects_per_second, count_lo, connects_hi),
	ENTRY(tcp_keepalive_ms, none, ms_max),
	ENTRY(client_prefix_v4, one, prefix_v4_hi),
	ENTRY(client_prefix_v6, one, prefix_v6_hi),
	ENTRY(client_connections_max, none, count_hi),
	ENTRY(client_connections_rate, none, rate_hi),
	ENTRY(client_connections_burst, one, rate_hi),
	ENTRY(client_connections_action, none, one),
	ENTRY(turned_away_max, none, count_hi),
	ENTRY(client_requests_rate, none, rate_hi),
	ENTRY(client_requests_burst, one, rate_hi),
	ENTRY(client_upgrades_rate, none, rate_hi),
	ENTRY(client_upgrades_burst, one, rate_hi),
	ENTRY(client_tunnels_max, none, count_hi),
	ENTRY(client_handshake_failures_max, none, rate_hi),
	ENTRY(upgrades_rate, none, rate_hi),
	ENTRY(upgrades_burst, one, rate_hi),
	ENTRY(tunnels_max, none, count_hi),
	ENTRY(limit_action, none, action_hi),
	TIMEOUT(limit_delay_max),
	ENTRY(sndbuf, buf_lo, buf_hi),
	ENTRY(memory_max_mib, none, any),
	ENTRY(client_memory_max_kib, none, any),
	ENTRY(ws_memory_max_kib, none, tunnel_kib_hi),
	ENTRY(ws_strict, none, one),
	ENTRY(interim_max, count_lo, interim_hi),
};

/* The range of the entry @name; false if there is none. */
bool squall_sysctl_range(const char *name, u32 *least, u32 *most)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(squall_table); i++) {
		const struct ctl_table *entry = &squall_table[i];

		if (strcmp(entry->procname, name))
			continue;
		*least = *(const unsigned int *)entry->extra1;
		*most = *(const unsigned int *)entry->extra2;
		return true;
	}
	return false;
}

static struct ctl_table_header *squall_header;

int squall_sysctl_register(void)
{
	squall_header = register_net_sysctl(&init_net, "net/squall",
					    squall_table);
	return squall_header ? 0 : -ENOMEM;
}

void squall_sysctl_unregister(void)
{
	unregister_net_sysctl_table(squall_header);
	squall_header = NULL;
}
