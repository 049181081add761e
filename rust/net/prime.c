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
#include <linux/module.h>
#include <linux/net.h>
#include <linux/workqueue.h>
#include <net/ipv6.h>
#include <net/sock.h>

#include "bindings.h"

/* IPv6 may be disabled. */
static bool v6_primed;

bool squall_v6_primed(void)
{
	return v6_primed;
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

/*
 * 0 when connect() does not sleep any more; an error if IPv4 does not connect.
 *
 * By now the works that patch are in the queue.  Waiting for single ones is not
 * possible, and flush_workqueue() warns of the kernel's own queues, since who
 * calls it may hold a lock that some other work needs.  The init of a module
 * holds none.
 */
int squall_prime(void)
{
	int err = attempt(PF_INET);

	if (err)
		return err;
	v6_primed = !attempt(PF_INET6);
	__flush_workqueue(system_percpu_wq);
	return 0;
}
