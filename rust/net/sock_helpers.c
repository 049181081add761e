// SPDX-License-Identifier: GPL-2.0
/*
 * Helpers on struct sock for rust/net: the inline functions, macros and
 * indirect calls of net/sock.h and net/tcp.h.
 *
 * Unless a comment says otherwise, the caller holds the socket's spinlock in
 * softirq (bh_lock_sock()) and the socket is not owned by a user.
 */
#include <linux/inet.h>
#include <linux/module.h>
#include <linux/net.h>
#include <net/inet_common.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/inet6_hashtables.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/request_sock.h>
#include <net/route.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/transp_v6.h>

#include "bindings.h"

/* Trying for a lock that is held has to fail: it keeps callbacks from nesting. */
#ifndef CONFIG_SMP
#error "Squall needs a kernel with SMP."
#endif

/* What belongs to a CPU is used under local_bh_disable() and no other lock. */
#ifdef CONFIG_PREEMPT_RT
#error "Squall needs a kernel without PREEMPT_RT."
#endif

/*
 * The callbacks of a TCP socket that nobody hooked, taken from squall_prime()'s
 * sockets: a listener's children carry the listener's hook from birth, so what
 * is found on them is not what to give back.
 */
static struct {
	void (*data_ready)(struct sock *sk);
	void (*write_space)(struct sock *sk);
	void (*state_change)(struct sock *sk);
	void (*error_report)(struct sock *sk);
} saved;

/* Init of the module: @sk is nobody else's. */
void squall_save_callbacks(const struct sock *sk)
{
	saved.data_ready = sk->sk_data_ready;
	saved.write_space = sk->sk_write_space;
	saved.state_change = sk->sk_state_change;
	saved.error_report = sk->sk_error_report;
}

/* Softirq, without the lock. */
void squall_bh_lock_sock(struct sock *sk)
{
	bh_lock_sock(sk);
}

/*
 * Softirq; another socket's lock may be held, since this does not wait.  Says
 * whether the lock was free and no process owns the socket.
 */
bool squall_bh_trylock_sock(struct sock *sk)
{
	if (!spin_trylock(&sk->sk_lock.slock))
		return false;
	if (!sock_owned_by_user_nocheck(sk))
		return true;
	bh_unlock_sock(sk);
	return false;
}

void squall_bh_unlock_sock(struct sock *sk)
{
	bh_unlock_sock(sk);
}

/* Without the lock. */
void squall_sock_put(struct sock *sk)
{
	sock_put(sk);
}

bool squall_sock_owned(const struct sock *sk)
{
	return sock_owned_by_user_nocheck(sk);
}

/*
 * Under rcu_read_lock() or the socket's lock in either of its forms: TCP's
 * timers call without the former.
 */
void *squall_sk_user_data(const struct sock *sk)
{
	uintptr_t data = (uintptr_t)rcu_dereference_check(
		__sk_user_data(sk), lockdep_sock_is_held(sk));

	return (void *)(data & SK_USER_DATA_PTRMASK);
}

/* Any context, without the lock. */
bool squall_accept_pending(const struct sock *lsk)
{
	return !reqsk_queue_empty(&inet_csk(lsk)->icsk_accept_queue);
}

/*
 * Softirq, no socket lock held: rskq_lock nests inside the child's lock.  What
 * inet_csk_accept() does, except that it neither sleeps nor locks the
 * listener, which the queue does not need.  sock_gen_put() is reqsk_put() for
 * a socket in TCP_NEW_SYN_RECV.  The caller owns the child's reference.
 */
struct sock *squall_accept(struct sock *lsk)
{
	struct request_sock_queue *queue = &inet_csk(lsk)->icsk_accept_queue;
	struct request_sock *req = reqsk_queue_remove(queue, lsk);
	struct sock *sk;

	if (!req)
		return NULL;
	sk = req->sk;
	if (tcp_rsk(req)->tfo_listener) {
		spin_lock_bh(&queue->fastopenq.lock);
		if (tcp_rsk(req)->tfo_listener) {
			/* reqsk_fastopen_remove() frees it after the ACK. */
			req->sk = NULL;
			req = NULL;
		}
		spin_unlock_bh(&queue->fastopenq.lock);
	}
	if (req)
		sock_gen_put(req_to_sk(req));
	inet_init_csk_locks(sk);
	return sk;
}

/* Process context.  What children inherit is set here, once. */
void squall_listen_setup(struct sock *sk, void *user_data, u32 rcvbuf,
			 void (*data_ready)(struct sock *sk))
{
	/*
	 * So that connections count as sockets in use.  What it is best known
	 * for, timers that outlive tcp_close(), matters to none of ours.
	 */
	sk_net_refcnt_upgrade(sk);
	sk->sk_allocation = GFP_ATOMIC;
	sk->sk_use_task_frag = false;
	sock_set_reuseaddr(sk);
	sock_set_keepalive(sk);
	/* Doubled there.  The window scale of handshakes follows from it. */
	sock_set_rcvbuf(sk, rcvbuf / 2);
	tcp_sock_set_nodelay(sk);

	write_lock_bh(&sk->sk_callback_lock);
	/*
	 * Children inherit it, and do not use it.  That there is something has
	 * BPF leave them alone: else a program could take a child into a map
	 * of sockets, which changes sk_prot and keeps its data in
	 * sk_user_data, before it is accepted and gets ours.
	 */
	rcu_assign_sk_user_data(sk, user_data);
	WRITE_ONCE(sk->sk_data_ready, data_ready);
	write_unlock_bh(&sk->sk_callback_lock);
}

/* Process context. */
void squall_listen_unhook(struct sock *sk)
{
	write_lock_bh(&sk->sk_callback_lock);
	WRITE_ONCE(sk->sk_data_ready, saved.data_ready);
	rcu_assign_sk_user_data(sk, NULL);
	write_unlock_bh(&sk->sk_callback_lock);
}

/* Nobody waits for a socket of ours. */
static struct socket_wq idle_wq = {
	.wait = __WAIT_QUEUE_HEAD_INITIALIZER(idle_wq.wait),
};

static struct socket *socket_init(struct squall_socket *place, struct sock *sk)
{
	struct socket *sock = (struct socket *)place;

	/* The wait queue is the last member, and what is missing. */
	static_assert(offsetof(struct socket, wq) >= sizeof(*place));
	static_assert(sizeof(struct socket) ==
		      offsetof(struct socket, wq) + sizeof(sock->wq));
	sock->type = SOCK_STREAM;
	sock->sk = sk;
	sock->ops = sk->sk_family == PF_INET6 ? &inet6_stream_ops :
						&inet_stream_ops;
	return sock;
}

/*
 * Softirq or process context, never sleeps: a TCP socket as inet_create() and
 * inet6_create() make it, with @place, zeroed, for the inode's struct socket.
 *  tcp_init_sock() dereferences sk_socket, so it comes first.
 */
struct sock *squall_sk_create(struct net *net, int family,
			      struct squall_socket *place)
{
	struct proto *prot = family == PF_INET6 ? &tcpv6_prot : &tcp_prot;
	struct inet_sock *inet;
	struct sock *sk;

	sk = sk_alloc(net, family, SQUALL_GFP_ATOMIC, prot, 0);
	if (!sk)
		return NULL;
	inet_init_csk_locks(sk);
	inet = inet_sk(sk);
	inet_set_bit(IS_ICSK, sk);
	inet_clear_bit(NODEFRAG, sk);
	inet->pmtudisc = READ_ONCE(net->ipv4.sysctl_ip_no_pmtu_disc) ?
			 IP_PMTUDISC_DONT : IP_PMTUDISC_WANT;
	atomic_set(&inet->inet_id, 0);
	sock_init_data_uid(NULL, sk, GLOBAL_ROOT_UID);
	sk->sk_type = SOCK_STREAM;
	sk->sk_family = family;
	sk->sk_protocol = IPPROTO_TCP;
	sk->sk_backlog_rcv = prot->backlog_rcv;
	sk->sk_txrehash = READ_ONCE(net->core.sysctl_txrehash);
	inet->uc_ttl = -1;
	inet_set_bit(MC_LOOP, sk);
	inet->mc_ttl = 1;
	inet_set_bit(MC_ALL, sk);
	if (family == PF_INET6) {
		struct ipv6_pinfo *np;

		sk->sk_destruct = inet6_sock_destruct;
		np = (struct ipv6_pinfo *)((u8 *)sk + prot->ipv6_pinfo_offset);
		inet->pinet6 = np;
		np->hop_limit = -1;
		np->mcast_hops = IPV6_DEFAULT_MCASTHOPS;
		inet6_set_bit(MC6_LOOP, sk);
		inet6_set_bit(MC6_ALL, sk);
		np->pmtudisc = IPV6_PMTUDISC_WANT;
	} else {
		sk->sk_destruct = inet_sock_destruct;
	}
	sk->sk_allocation = GFP_ATOMIC;
	sk->sk_use_task_frag = false;
	WRITE_ONCE(sk->sk_socket, socket_init(place, sk));
	rcu_assign_pointer(sk->sk_wq, &idle_wq);
	if (prot->init(sk)) {
		sk->sk_socket = NULL;
		sk_common_release(sk);
		return NULL;
	}
	tcp_sk(sk)->nonagle |= TCP_NAGLE_OFF;
	return sk;
}

/*
 * An accepted child has no struct socket, and TCP's send path dereferences
 * one.  sock_graft() would ask for its inode.
 */
void squall_sk_attach(struct sock *sk, struct squall_socket *place)
{
	struct socket *sock = socket_init(place, sk);

	sock->state = SS_CONNECTED;
	write_lock_bh(&sk->sk_callback_lock);
	rcu_assign_pointer(sk->sk_wq, &idle_wq);
	WRITE_ONCE(sk->sk_socket, sock);
	write_unlock_bh(&sk->sk_callback_lock);
}

void squall_sk_hook(struct sock *sk, void *user_data,
		    void (*data_ready)(struct sock *sk),
		    void (*write_space)(struct sock *sk),
		    void (*state_change)(struct sock *sk),
		    void (*error_report)(struct sock *sk))
{
	write_lock_bh(&sk->sk_callback_lock);
	rcu_assign_sk_user_data(sk, user_data);
	WRITE_ONCE(sk->sk_data_ready, data_ready);
	WRITE_ONCE(sk->sk_write_space, write_space);
	sk->sk_state_change = state_change;
	WRITE_ONCE(sk->sk_error_report, error_report);
	write_unlock_bh(&sk->sk_callback_lock);
}

/*
 * Before squall_sk_release().  TCP calls none of them for a socket that is
 * closed and orphaned, but whoever still has a reference finds its own.
 */
void squall_sk_unhook(struct sock *sk)
{
	squall_sk_hook(sk, NULL, saved.data_ready, saved.write_space,
		       saved.state_change, saved.error_report);
}

/*
 * The socket is in TCP_CLOSE and unhooked: inet_csk_destroy_sock() without the
 * orphan count, which was never raised, and without the last sock_put().
 */
void squall_sk_release(struct sock *sk)
{
	WARN_ON_ONCE(sk->sk_state != TCP_CLOSE);
	sock_orphan(sk);
	sk->sk_prot->destroy(sk);
	sk_stream_kill_queues(sk);
}

/* Where a connection is to lead, and where from as soon as that matters. */
struct destination {
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	};
	union {
		__be32 v4;
		struct in6_addr v6;
	} from;
	/* The address in IPv4, also if it is written as one of IPv6. */
	__be32 v4;
	bool is_v4;
	bool routed;
};

/* Finds the address from which connect() will connect. */
static bool find_source(struct sock *sk, struct destination *to)
{
	struct dst_entry *dst;

	if (to->is_v4) {
		struct flowi4 fl4;
		struct rtable *rt;

		rt = ip_route_connect(&fl4, to->v4, 0, 0, IPPROTO_TCP, 0,
				      to->in.sin_port, sk);
		if (IS_ERR(rt))
			return false;
		to->from.v4 = fl4.saddr;
		dst = &rt->dst;
	} else {
		struct flowi6 fl6 = {
			.flowi6_proto = IPPROTO_TCP,
			.daddr = to->in6.sin6_addr,
			.fl6_dport = to->in6.sin6_port,
			.flowi6_uid = sk_uid(sk),
		};

		dst = ip6_dst_lookup_flow(sock_net(sk), sk, &fl6, NULL);
		if (IS_ERR(dst))
			return false;
		to->from.v6 = fl6.saddr;
	}
	dst_release(dst);
	to->routed = true;
	return true;
}

/*
 * Says whether connect() may take the port of a connection in TIME_WAIT.  What
 * tcp_twsk_unique() asks, which is not exported, and has the last word.
 */
static bool may_reuse(const struct sock *sk)
{
	const struct inet_timewait_sock *tw = inet_twsk(sk);
	const struct tcp_timewait_sock *tcptw = tcp_twsk(sk);
	struct net *net = sock_net(sk);
	int reuse = READ_ONCE(net->ipv4.sysctl_tcp_tw_reuse);
	u32 after = READ_ONCE(tw->tw_entry_stamp) +
		    READ_ONCE(net->ipv4.sysctl_tcp_tw_reuse_delay);

	if (!reuse || READ_ONCE(tw->tw_substate) == TCP_FIN_WAIT2 ||
	    !READ_ONCE(tcptw->tw_ts_recent_stamp) ||
	    !time_after32(tcp_clock_ms(), after))
		return false;
	if (reuse != 2 || tw->tw_bound_dev_if == LOOPBACK_IFINDEX)
		return true;
	if (tw->tw_family == AF_INET6)
		return ipv6_addr_loopback(&tw->tw_v6_daddr) ||
		       ipv6_addr_v4mapped_loopback(&tw->tw_v6_daddr) ||
		       ipv6_addr_loopback(&tw->tw_v6_rcv_saddr) ||
		       ipv6_addr_v4mapped_loopback(&tw->tw_v6_rcv_saddr);
	return ipv4_is_loopback(tw->tw_daddr) ||
	       ipv4_is_loopback(tw->tw_rcv_saddr);
}

/*
 * Says whether connect() will take @port, by its own rules and in its order:
 * see __inet_hash_connect().  Who owns the port is not walked through, which
 * may be very many: a port that bind() has taken is left alone, and for one
 * of connections the table of these is asked for the one that there would be.
 */
static bool port_is_free(struct sock *sk, u16 port, struct destination *to)
{
	struct net *net = sock_net(sk);
	struct inet_hashinfo *hinfo = net->ipv4.tcp_death_row.hashinfo;
	struct inet_bind_hashbucket *head;
	bool used = false, bound = false;
	struct inet_bind_bucket *tb;
	struct sock *other;

	if (inet_is_local_reserved_port(net, port))
		return false;
	head = &hinfo->bhash[inet_bhashfn(net, port, hinfo->bhash_size)];
	spin_lock_bh(&head->lock);
	inet_bind_bucket_for_each(tb, &head->chain) {
		if (tb->port != port || tb->l3mdev ||
		    !net_eq(ib_net(tb), net))
			continue;
		used = true;
		bound = tb->fastreuse >= 0 || tb->fastreuseport >= 0;
		break;
	}
	spin_unlock_bh(&head->lock);
	if (!used || bound)
		return !bound;

	/* Without a route connect() says why. */
	if (!to->routed && !find_source(sk, to))
		return true;
	if (to->is_v4)
		other = __inet_lookup_established(net, to->v4, to->in.sin_port,
						  to->from.v4, port, 0, 0);
	else
		other = __inet6_lookup_established(net, &to->in6.sin6_addr,
						   to->in6.sin6_port,
						   &to->from.v6, port, 0, 0);
	if (!other)
		return true;
	used = other->sk_state != TCP_TIME_WAIT || !may_reuse(other);
	sock_gen_put(other);
	return !used;
}

/*
 * connect()'s own search for a port walks the whole range when that is used
 * up, and may call cond_resched() on the way.  So it is given one port that it
 * will take, and the search for that one ends after PORT_PROBES, each of which
 * looks into two hash tables.  The next attempt begins somewhere else.
 */
#define PORT_PROBES 1024
#define PORT_TRIES 4

/* @addr is not written to: connect() may change what it is given. */
int squall_sk_connect(struct sock *sk, const void *addr, int len)
{
	struct net *net = sock_net(sk);
	int low, high, probe, err = -EADDRNOTAVAIL, tries = 0;
	struct destination to = {};
	u32 range, port;

	if (len < sizeof(to.in) || len > sizeof(to.in6))
		return -EINVAL;
	memcpy(&to.in6, addr, len);
	if (to.sa.sa_family == AF_INET6 && !squall_v6_primed())
		return -EAFNOSUPPORT;
	/* Both kinds of addresses have the port in the same place. */
	static_assert(offsetof(struct sockaddr_in, sin_port) ==
		      offsetof(struct sockaddr_in6, sin6_port));
	to.is_v4 = to.sa.sa_family == AF_INET ||
		   ipv6_addr_v4mapped(&to.in6.sin6_addr);
	to.v4 = to.sa.sa_family == AF_INET ? to.in.sin_addr.s_addr :
					     to.in6.sin6_addr.s6_addr32[3];
	inet_get_local_port_range(net, &low, &high);
	range = max(high - low + 1, 1);
	port = get_random_u32_below(range);
	for (probe = 0; probe < PORT_PROBES && probe < range; probe++) {
		u16 local = low + (port + probe) % range;

		if (!port_is_free(sk, local, &to))
			continue;
		WRITE_ONCE(inet_sk(sk)->local_port_range,
			   (u32)local << 16 | local);
		err = sk->sk_prot->connect(sk, (struct sockaddr_unsized *)&to.sa,
					   len);
		/* Another CPU may have been faster. */
		if (err != -EADDRNOTAVAIL || ++tries == PORT_TRIES)
			break;
	}
	return err;
}

void squall_sk_disconnect(struct sock *sk)
{
	sk->sk_prot->disconnect(sk, O_NONBLOCK);
}

/*
 * TCP sends a FIN or a reset once: if there is no memory for it, the peer never
 * hears of it.  Any context: says whether there was memory for one just now,
 * which is then on this CPU's free list.  tcp_send_fin() takes it from another
 * cache than tcp_send_active_reset().
 */
bool squall_can_send_control(bool reset)
{
	struct sk_buff *skb = reset ?
		alloc_skb(MAX_TCP_HEADER, SQUALL_GFP_ATOMIC) :
		alloc_skb_fclone(MAX_TCP_HEADER, SQUALL_GFP_ATOMIC);

	if (!skb)
		return false;
	kfree_skb(skb);
	return true;
}

/* Returns whether the FIN was queued, which it is not without memory. */
bool squall_sk_shutdown_send(struct sock *sk)
{
	u32 seq = tcp_sk(sk)->write_seq;

	WRITE_ONCE(sk->sk_shutdown, sk->sk_shutdown | SEND_SHUTDOWN);
	sk->sk_prot->shutdown(sk, SEND_SHUTDOWN);
	return tcp_sk(sk)->write_seq != seq;
}

/*
 * What skbs may take with their overhead, not doubled again.  TCP changes
 * neither any more.
 */
void squall_sk_buffers(struct sock *sk, u32 rcvbuf, u32 sndbuf)
{
	sk->sk_userlocks |= SOCK_RCVBUF_LOCK | SOCK_SNDBUF_LOCK;
	WRITE_ONCE(sk->sk_rcvbuf, rcvbuf);
	WRITE_ONCE(sk->sk_sndbuf, sndbuf);
}

void squall_sk_limits(struct sock *sk, u32 rcvbuf, u32 sndbuf, u32 unsent_max)
{
	squall_sk_buffers(sk, rcvbuf, sndbuf);
	WRITE_ONCE(tcp_sk(sk)->notsent_lowat, unsent_max);
}

/* How often a silent peer is probed before it is given up. */
#define KEEPALIVE_PROBES 3UL

/*
 * Before connecting: the handshake's end starts the timer.  After @ms of
 * silence the peer is probed, and given up after as long again without an
 * answer.  0 is never.
 */
void squall_sk_keepalive(struct sock *sk, u32 ms)
{
	u32 ticks = max(msecs_to_jiffies(ms), KEEPALIVE_PROBES);
	struct tcp_sock *tp = tcp_sk(sk);

	sock_valbool_flag(sk, SOCK_KEEPOPEN, ms > 0);
	WRITE_ONCE(tp->keepalive_time, ticks);
	WRITE_ONCE(tp->keepalive_intvl, ticks / KEEPALIVE_PROBES);
	WRITE_ONCE(tp->keepalive_probes, KEEPALIVE_PROBES);
}

/* @addr gets 16 bytes, an IPv4 address as ::ffff:a.b.c.d; @port host order. */
void squall_sk_peer(const struct sock *sk, u8 *addr, u16 *port)
{
	struct in6_addr in6;

	if (sk->sk_family == AF_INET6)
		in6 = sk->sk_v6_daddr;
	else
		ipv6_addr_set_v4mapped(inet_sk(sk)->inet_daddr, &in6);
	memcpy(addr, &in6, sizeof(in6));
	*port = ntohs(inet_sk(sk)->inet_dport);
}

int squall_sk_state(const struct sock *sk)
{
	return READ_ONCE(sk->sk_state);
}

/* Takes the pending error: 0 or a negative errno. */
int squall_sk_error(struct sock *sk)
{
	return sock_error(sk);
}

/*
 * TCP has something that it cannot send before the peer acknowledges or makes
 * room, so it keeps what it is given; who waits for space is called then.
 */
bool squall_sk_is_blocked(const struct sock *sk)
{
	const struct tcp_sock *tp = tcp_sk(sk);

	return tp->write_seq != tp->snd_nxt &&
	       (after(tp->write_seq, tcp_wnd_end(tp)) ||
		tcp_packets_in_flight(tp) >= tcp_snd_cwnd(tp));
}

bool squall_sk_writeable(struct sock *sk)
{
	if (!sk_stream_is_writeable(sk) || !sk->sk_socket)
		return false;
	clear_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
	return true;
}

bool squall_sk_write_queue_empty(const struct sock *sk)
{
	return tcp_rtx_and_write_queues_empty(sk);
}

u32 squall_sk_acked(const struct sock *sk)
{
	return tcp_sk(sk)->snd_una;
}

void squall_sk_wait_space(struct sock *sk)
{
	set_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
}

/* Nobody waits for space: TCP need not call. */
void squall_sk_leave_space(struct sock *sk)
{
	if (sk->sk_socket)
		clear_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
}

/*
 * Has the ACK go with the answer, or be late as TCP's own delayed ones are: see
 * tcp_cleanup_rbuf() and tcp_in_quickack_mode().
 */
void squall_sk_delay_ack(struct sock *sk)
{
	inet_csk_enter_pingpong_mode(sk);
}

/* One MSG_OOB byte would stop tcp_read_sock() for ever. */
void squall_sk_clear_urgent(struct sock *sk)
{
	if (unlikely(tcp_sk(sk)->urg_data))
		WRITE_ONCE(tcp_sk(sk)->urg_data, 0);
}

/*
 * What can still come before something is read: what the peer was allowed to
 * send, as far as there is memory for it.
 */
u32 squall_sk_room(const struct sock *sk)
{
	u32 space = max(tcp_space(sk), 0);

	return min(tcp_receive_window(tcp_sk(sk)), space);
}

u32 squall_sk_unread(struct sock *sk)
{
	/* An urgent byte would hide what is behind it. */
	squall_sk_clear_urgent(sk);
	return tcp_inq(sk);
}

/*
 * The peer has sent its FIN; there may be bytes to read before it.  Not
 * RCV_SHUTDOWN, which a reset sets too: bytes that a reset cut off would look
 * complete.
 */
bool squall_sk_fin_received(const struct sock *sk)
{
	return sock_flag(sk, SOCK_DONE);
}

/*
 * The skb of the receive queue that has the unread byte at @offset, and its
 * place there in @at.  Skbs of the queue may overlap, so each is placed by its
 * sequence number, as tcp_recvmsg() does; if several have the byte, it is the
 * first one's.  Each ends behind the one before it, as TCP queues nothing that
 * has no new byte.  So a byte of the second half is looked for from the end:
 * who reads what has just come need not pass what came before.
 */
static struct sk_buff *skb_at(struct sock *sk, u32 offset, u32 *at)
{
	u32 seq = tcp_sk(sk)->copied_seq + offset;
	struct sk_buff *skb = skb_peek(&sk->sk_receive_queue), *found = NULL;

	/* Mostly there is one. */
	if (!skb)
		return NULL;
	*at = seq - TCP_SKB_CB(skb)->seq;
	if (likely(*at < skb->len))
		return skb;
	if (offset <= tcp_inq(sk) / 2) {
		skb_queue_walk(&sk->sk_receive_queue, skb) {
			*at = seq - TCP_SKB_CB(skb)->seq;
			if (*at < skb->len)
				return skb;
		}
		return NULL;
	}
	skb_queue_reverse_walk(&sk->sk_receive_queue, skb) {
		u32 within = seq - TCP_SKB_CB(skb)->seq;

		if ((s32)(within - skb->len) >= 0)
			break;
		*at = within;
		found = skb;
	}
	return found && *at < found->len ? found : NULL;
}

/*
 * The contiguous unread bytes at @offset of the receive queue.  NULL if none
 * arrived, or if they may change: what a process of this host sends by
 * sendfile() or vmsplice() stays its own.
 */
const u8 *squall_sk_peek(struct sock *sk, u32 offset, u32 *len)
{
	struct squall_piece piece;
	struct sk_buff *skb;
	u32 at;

	skb = skb_at(sk, offset, &at);
	if (!skb || !squall_skb_piece(skb, at, &piece) || piece.shared)
		return NULL;
	*len = piece.len;
	return piece.data;
}

/*
 * Copies up to @len unread bytes from @offset on; returns how many.  0 if none
 * arrived, or if they cannot be read.  Walks along the queue once.
 */
u32 squall_sk_copy(struct sock *sk, u32 offset, void *to, u32 len)
{
	u32 seq = tcp_sk(sk)->copied_seq + offset, done = 0, at;
	struct sk_buff *skb = skb_at(sk, offset, &at);

	if (!skb)
		return 0;
	skb_queue_walk_from(&sk->sk_receive_queue, skb) {
		u32 now;

		at = seq + done - TCP_SKB_CB(skb)->seq;
		/* One that has no byte but those of the ones before it. */
		if (at >= skb->len)
			continue;
		now = min(len - done, skb->len - at);
		if (skb_copy_bits(skb, at, to + done, now))
			break;
		done += now;
		if (done == len)
			break;
	}
	return done;
}

/* Any context. */
struct net *squall_init_net(void)
{
	return &init_net;
}
