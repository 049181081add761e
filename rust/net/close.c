// SPDX-License-Identifier: GPL-2.0
/*
 * Leaves sockets to TCP whose FIN is acknowledged and whose peer takes its time.
 *  close() has the kernel keep a small timewait socket in FIN_WAIT2 instead, for
 * net.ipv4.tcp_fin_timeout and no more of them than net.ipv4.tcp_max_tw_buckets,
 * and end that without a reset.  It takes lock_sock(), which sleeps, so this is
 * the one thing about connections that is done in process context.  Nobody
 * waits for it.
 */
#include <linux/llist.h>
#include <linux/workqueue.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "bindings.h"

static LLIST_HEAD(squall_closing);
static void (*squall_close_fn)(struct llist_node *node);

static void close_all(struct work_struct *work)
{
	struct llist_node *node, *next;

	node = llist_reverse_order(llist_del_all(&squall_closing));
	llist_for_each_safe(node, next, node) {
		squall_close_fn(node);
		cond_resched();
	}
}

static DECLARE_WORK(squall_close_work, close_all);

/* Init of the module: @fn will be called in process context for each node. */
void squall_close_start(void (*fn)(struct llist_node *node))
{
	squall_close_fn = fn;
}

/* When nothing calls squall_close_later() any more: waits for what it began. */
void squall_close_stop(void)
{
	flush_work(&squall_close_work);
}

/* Any context. */
void squall_close_later(struct llist_node *node)
{
	if (llist_add(node, &squall_closing))
		schedule_work(&squall_close_work);
}

/* Process context, without the lock.  The socket is unhooked. */
void squall_sk_close(struct sock *sk)
{
	/* For the reference that tcp_close() takes over. */
	sock_hold(sk);
	tcp_close(sk, 0);
}
