// SPDX-License-Identifier: GPL-2.0
/*
 * The channel of the access log: the generic netlink family "squall" with the
 * multicast group "log".  Messages are made in rust/net/log.rs; what they say
 * is in include/uapi/squall.h.
 *
 * A record is sent where it is made, in softirq, also with a TCP socket's
 * spinlock held.  That is legal: with GFP_ATOMIC netlink_broadcast() does not
 * sleep.  It takes nl_table_lock for reading with interrupts off, the receive
 * queue's lock of each reader, and those of waking it up.  Nobody takes a TCP
 * socket's lock under any of these, and TCP wakes up its own readers under the
 * socket's lock in the same way.
 */
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/timekeeping.h>
#include <net/genetlink.h>

#include "bindings.h"

/* Who may read addresses and targets: CAP_NET_ADMIN. */
static const struct genl_multicast_group squall_log_groups[] = {
	{ .name = SQUALL_GENL_GROUP_LOG, .flags = GENL_MCAST_CAP_NET_ADMIN },
};

static struct genl_family squall_log_family __ro_after_init = {
	.name = SQUALL_GENL_NAME,
	.version = SQUALL_GENL_VERSION,
	.maxattr = SQUALL_A_MAX,
	.mcgrps = squall_log_groups,
	.n_mcgrps = ARRAY_SIZE(squall_log_groups),
	.module = THIS_MODULE,
};

static DEFINE_PER_CPU(u64, squall_log_seq);

/* Init of the module. */
int squall_log_register(void)
{
	return genl_register_family(&squall_log_family);
}

/* Exit of the module, when nothing is left that makes records. */
void squall_log_unregister(void)
{
	genl_unregister_family(&squall_log_family);
}

/* Any context: somebody follows the log. */
bool squall_log_followed(void)
{
	return genl_has_listeners(&squall_log_family, &init_net, 0);
}

/*
 * BH only, as all that follows: the number of the next record on this CPU.
 * Numbers of a CPU's own let a reader see every gap, which one for all could
 * not: between taking a number and sending, two CPUs may overtake each other.
 */
u64 squall_log_next(void)
{
	return this_cpu_inc_return(squall_log_seq);
}

/* A message with room for @room bytes of attributes, or NULL. */
struct sk_buff *squall_log_message(u8 cmd, u32 room)
{
	struct sk_buff *skb = genlmsg_new(room, SQUALL_GFP_ATOMIC);

	if (!skb)
		return NULL;
	if (!genlmsg_put(skb, 0, 0, &squall_log_family, 0, cmd)) {
		nlmsg_free(skb);
		return NULL;
	}
	return skb;
}

/* Appends an attribute; false if there is no room. */
bool squall_log_put(struct sk_buff *skb, u16 type, const void *data, u32 len)
{
	return nla_put(skb, type, len, data) == 0;
}

void squall_log_free(struct sk_buff *skb)
{
	nlmsg_free(skb);
}

/*
 * Sends the message, which is gone afterwards.  False if no reader got it, or
 * one that had asked to be told did not.
 */
bool squall_log_send(struct sk_buff *skb)
{
	nlmsg_end(skb, nlmsg_hdr(skb));
	return genlmsg_multicast(&squall_log_family, skb, 0, 0,
				 SQUALL_GFP_ATOMIC) == 0;
}

u64 squall_log_time(void)
{
	return ktime_get_real_ns();
}

/* Nanoseconds of a clock that is never set. */
u64 squall_log_clock(void)
{
	return ktime_get_ns();
}

u32 squall_log_cpu(void)
{
	return raw_smp_processor_id();
}
