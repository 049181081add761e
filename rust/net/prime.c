// SPDX-License-Identifier: GPL-2.0
/*
 * What has to be over before anything connects in softirq.
 *
 * connect() draws secrets the first time that it needs them, in each address
 * family, by DO_ONCE_SLEEPABLE(): under a mutex, until a static key that says
 * that it was not done yet has been patched out.  A work of the kernel does
 * that, later: as late as its workers are.  See lib/once.c.
 *
 * Init of the module only: process context, sleeps.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/jump_label.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/once.h>
#include <linux/slab.h>
#include <net/ipv6.h>
#include <net/sock.h>

#include "bindings.h"

/* How long loading waits for the kernel's workers. */
#define PATCHED_WITHIN (60 * HZ)
/* How long an attempt may take that waits for no mutex. */
#define ATTEMPT (HZ / 20 + 1)

/* IPv6 may be disabled. */
static bool primed[2];

bool squall_v6_primed(void)
{
	return primed[1];
}

/* Connects to a port of this host, so that a local port is chosen. */
static int attempt(int family)
{
	struct sockaddr_storage addr = { .ss_family = family };
	struct socket *sock;
	int err;

	err = sock_create_kern(&init_net, family, SOCK_STREAM, IPPROTO_TCP,
			       &sock);
	if (err)
		return err;
	squall_save_callbacks(sock->sk);
	if (family == PF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)&addr;

		in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		in->sin_port = htons(9);
	} else {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&addr;

		in6->sin6_addr = in6addr_loopback;
		in6->sin6_port = htons(9);
	}
	err = kernel_connect(sock, (struct sockaddr_unsized *)&addr,
			     sizeof(addr), O_NONBLOCK);
	sock_release(sock);
	/* Refused or not, a port was chosen; without a route it was not. */
	return err == -EINPROGRESS || err == -ECONNREFUSED ? 0 : err;
}

struct probe {
	struct completion done;
	int err;
};

/* Attempts again what went well before. */
static int probe_thread(void *data)
{
	struct probe *probe = data;

	probe->err = attempt(PF_INET);
	if (!probe->err && primed[1])
		probe->err = attempt(PF_INET6);
	/* Nothing of the module runs behind that. */
	kthread_complete_and_exit(&probe->done, 0);
}

/*
 * Says whether connect() goes past the mutex, by trying while it is taken: 0,
 * -EAGAIN if it does not or not yet, or why it could not be tried.
 *
 * The mutex can be had by doing something once, with a key of our own, which is
 * then patched out by the same workers.  It is given to no module, and belongs to
 * that work until it is done: if it is not done by @end, it stays allocated.
 */
static int probe_mutex(unsigned long end)
{
	struct static_key_true *key;
	struct task_struct *thread;
	bool once = false;
	struct probe probe;
	bool past;

	key = kmalloc(sizeof(*key), GFP_KERNEL);
	if (!key)
		return -ENOMEM;
	*key = STATIC_KEY_TRUE_INIT;
	init_completion(&probe.done);
	/* Nobody else has seen @once: the mutex is ours. */
	__do_once_sleepable_start(&once);
	thread = kthread_run(probe_thread, &probe, "squall-prime");
	past = !IS_ERR(thread) &&
	       wait_for_completion_timeout(&probe.done, ATTEMPT);
	__do_once_sleepable_done(&once, key, NULL);
	if (!IS_ERR(thread) && !past)
		wait_for_completion(&probe.done);

	while (static_key_enabled(key) && time_before(jiffies, end))
		msleep(1);
	if (!static_key_enabled(key))
		kfree(key);
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	if (!past)
		return -EAGAIN;
	return probe.err;
}

/*
 * 0 when connect() does not sleep any more; -ETIMEDOUT if the kernel's workers
 * took longer than PATCHED_WITHIN; other errors if IPv4 does not connect.
 */
int squall_prime(void)
{
	unsigned long end = jiffies + PATCHED_WITHIN;
	int err;

	err = attempt(PF_INET);
	if (err)
		return err;
	primed[0] = true;
	primed[1] = !attempt(PF_INET6);
	do {
		err = probe_mutex(end);
	} while (err == -EAGAIN && time_before(jiffies, end));
	return err == -EAGAIN ? -ETIMEDOUT : err;
}
