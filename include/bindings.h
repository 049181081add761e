/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Input of bindgen: the kernel's network headers, and the helpers that
 * rust/net needs because Rust cannot call inline functions and macros.
 * Only rust/net sees what is generated from this file.
 *
 * Helpers hold no policy.  Where a helper has a condition of its own (a lock
 * that must be held, a context), the comment where it is defined says so:
 * in rust/net, the C file named after the subject.
 */
#ifndef SQUALL_BINDINGS_H
#define SQUALL_BINDINGS_H

#include <linux/bvec.h>
#include <linux/cpuhotplug.h>
#include <linux/int_log.h>
#include <linux/llist.h>
#include <linux/net.h>
#include <linux/rcupdate.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/uio.h>
#include <linux/workqueue.h>
#include <crypto/sha1.h>
#include <linux/base64.h>
#include <net/inet_common.h>
#include <net/inet_connection_sock.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/transp_v6.h>

#include "uapi/squall.h"

/* Rust sees constants, not casts and enum expressions. */
static const gfp_t SQUALL_GFP_ATOMIC = GFP_ATOMIC | __GFP_NOWARN;
static const u32 SQUALL_HZ = HZ;
static const u32 SQUALL_TCP_SYN_SENT = TCP_SYN_SENT;
static const u32 SQUALL_TCP_SYN_RECV = TCP_SYN_RECV;
static const u32 SQUALL_TCP_CLOSE = TCP_CLOSE;
static const u32 SQUALL_TCP_FIN_WAIT2 = TCP_FIN_WAIT2;
static const u32 SQUALL_TCP_LISTEN = TCP_LISTEN;

/*
 * Number of counters kept per CPU: those that rust/net/stats.rs names, and two
 * for each rule that a message can break.
 */
#define SQUALL_COUNTERS 256

/* Length of an IMF-fixdate, "Sun, 06 Nov 1994 08:49:37 GMT". */
#define SQUALL_DATE_LEN 29

/* Kinds of memory of which each CPU keeps a block. */
#define SQUALL_SPARES 3

/* Pages that each CPU fills in turn with small pieces. */
#define SQUALL_PAGES 16

/**
 * struct squall_page - a page that pieces are taken of
 * @page: NULL if there is none
 * @used: bytes of it that were taken
 * @refs: references to it that nobody has got yet
 *
 * A single page, and none of a higher order as page_frag_alloc() prefers: it
 * is kept from being freed by any piece of it that a slow receiver is owed.
 */
struct squall_page {
	struct page *page;
	u32 used;
	u32 refs;
};

/**
 * struct squall_cpu - what Squall keeps per CPU
 * @run: connections with something to do, newest first
 * @rest: connections left over by the last pass, oldest first; work only
 * @work: BH work item that serves the two lists
 * @pages: pages that small pieces are copied into, one right behind the other:
 *         when one is full the next has its turn, whose pieces are likely gone
 *         by then, so that it need not be allocated anew
 * @turn: the one that is being filled
 * @spares: see squall_spare_take()
 * @date: the time @date_at as the field Date has it, "" at first
 * @date_at: seconds since the epoch
 * @counters: event counts, summed over CPUs by squall_count_sum()
 */
struct squall_cpu {
	struct llist_head run;
	struct llist_node *rest;
	struct work_struct work;
	struct squall_page pages[SQUALL_PAGES];
	u32 turn;
	void *spares[SQUALL_SPARES];
	char date[SQUALL_DATE_LEN + 1];
	time64_t date_at;
	u64 counters[SQUALL_COUNTERS];
};

/**
 * struct squall_socket - a struct socket without its wait queue
 *
 * TCP's send path wants a struct socket, for its flags.  The wait queue in it is
 * that of who has the socket from a file; TCP knows it by sk->sk_wq only, and
 * nobody waits for our sockets, so they share one.  It is as large as the rest.
 */
struct squall_socket {
	unsigned long words[offsetofend(struct socket, ops) / sizeof(long)];
};

/**
 * struct squall_setting - a row of net.squall.*; see rust/net/sysctl.rs
 * @name: the name below net.squall
 * @value: written by sysctl, read with READ_ONCE() semantics by the data path
 * @least: least value that is accepted
 * @most: largest value that is accepted
 */
struct squall_setting {
	const char *name;
	u32 *value;
	u32 least;
	u32 most;
};

int squall_sysctl_register(const struct squall_setting *rows, u32 count);
void squall_sysctl_unregister(void);

/* One contiguous run of an skb's bytes, see squall_skb_piece(). */
struct squall_piece {
	void *data;
	struct page *page;	/* NULL: the bytes have to be copied */
	u32 offset;
	u32 len;
	bool shared;		/* a process of this host may change them */
};

/* Run lists and counters. */
void squall_close_start(void (*fn)(struct llist_node *node));
void squall_close_stop(void);
void squall_close_later(struct llist_node *node);
void squall_sk_close(struct sock *sk);
int squall_run_start(void (*fn)(struct work_struct *work));
void squall_run_stop(void);
void squall_run_kick(struct llist_node *node);
struct llist_node *squall_run_take(struct work_struct *work);
void squall_run_defer(struct work_struct *work, struct llist_node *rest);
bool squall_queue_bh(struct work_struct *work);
void squall_count(u32 which, u64 n);
u64 squall_count_sum(u32 which);

/* Locks and lifetime. */
void squall_spin_lock_init(spinlock_t *lock, const char *name,
			   struct lock_class_key *key);
void squall_spin_lock_bh(spinlock_t *lock);
bool squall_spin_trylock_bh(spinlock_t *lock);
void squall_spin_unlock_bh(spinlock_t *lock);
void squall_assert_spin_locked(spinlock_t *lock);
void squall_kfree_rcu(struct rcu_head *head, void *object);
int squall_conns_create(u32 size);
void squall_conns_destroy(void);
void *squall_conn_alloc(void);
void squall_conn_free(void *conn);
bool squall_in_softirq(void);
u32 squall_hash(const u32 *words, u32 count, u32 seed);
u64 squall_keyed_hash(u64 a, u64 b, u64 c);
void *squall_spare_take(u32 slot);
void *squall_spare_keep(u32 slot, void *spare);
void squall_spare_each(u32 slot, void (*fn)(void *spare));
unsigned long squall_jiffies(void);
u64 squall_ns(void);
void squall_date(u8 *date);
void squall_timer_setup(struct timer_list *timer,
			void (*fn)(struct timer_list *timer));
void squall_work_setup(struct work_struct *work,
		       void (*fn)(struct work_struct *work));
void squall_registry_add(struct list_head *entry);
void squall_registry_del(struct list_head *entry);
void squall_registry_each(void (*fn)(struct list_head *entry, u32 arg), u32 arg);
void squall_registry_rotate(void (*fn)(struct list_head *entry, void *arg),
			    void *arg, u32 count);

/* Sockets. */
void squall_bh_lock_sock(struct sock *sk);
bool squall_bh_trylock_sock(struct sock *sk);
void squall_bh_unlock_sock(struct sock *sk);
void squall_sock_put(struct sock *sk);
bool squall_sock_owned(const struct sock *sk);
void *squall_sk_user_data(const struct sock *sk);
bool squall_accept_pending(const struct sock *lsk);
struct sock *squall_accept(struct sock *lsk);
void squall_listen_setup(struct sock *sk, void *user_data, u32 rcvbuf,
			 void (*data_ready)(struct sock *sk));
void squall_listen_unhook(struct sock *sk);
struct sock *squall_sk_create(struct net *net, int family,
			      struct squall_socket *place);
void squall_sk_attach(struct sock *sk, struct squall_socket *place);
void squall_sk_hook(struct sock *sk, void *user_data,
		    void (*data_ready)(struct sock *sk),
		    void (*write_space)(struct sock *sk),
		    void (*state_change)(struct sock *sk),
		    void (*error_report)(struct sock *sk));
void squall_sk_unhook(struct sock *sk);
void squall_sk_release(struct sock *sk);
int squall_sk_connect(struct sock *sk, const void *addr, int len);
void squall_sk_disconnect(struct sock *sk);
bool squall_sk_shutdown_send(struct sock *sk);
bool squall_can_send_control(bool reset);
void squall_sk_limits(struct sock *sk, u32 rcvbuf, u32 sndbuf, u32 unsent_max);
void squall_sk_buffers(struct sock *sk, u32 rcvbuf, u32 sndbuf);
void squall_sk_keepalive(struct sock *sk, u32 ms);
void squall_sk_peer(const struct sock *sk, u8 *addr, u16 *port);
int squall_sk_state(const struct sock *sk);
int squall_sk_error(struct sock *sk);
int squall_sk_send(struct sock *sk, const struct bio_vec *pieces, u32 count,
		   u32 bytes, bool more);
bool squall_sk_is_blocked(const struct sock *sk);
bool squall_sk_writeable(struct sock *sk);
bool squall_sk_write_queue_empty(const struct sock *sk);
u32 squall_sk_acked(const struct sock *sk);
void squall_sk_delay_ack(struct sock *sk);
void squall_sk_wait_space(struct sock *sk);
void squall_sk_leave_space(struct sock *sk);
void squall_sk_clear_urgent(struct sock *sk);
u32 squall_sk_room(const struct sock *sk);
u32 squall_sk_unread(struct sock *sk);
bool squall_sk_fin_received(const struct sock *sk);
const u8 *squall_sk_peek(struct sock *sk, u32 offset, u32 *len);
u32 squall_sk_copy(struct sock *sk, u32 offset, void *to, u32 len);
void squall_save_callbacks(const struct sock *sk);
int squall_prime(void);
bool squall_v6_primed(void);
struct net *squall_init_net(void);

/* Pages and fragments. */
bool squall_skb_piece(struct sk_buff *skb, u32 offset,
		      struct squall_piece *piece);
u32 squall_skb_pieces(struct sk_buff *skb, u32 offset, u32 want, u32 least,
		      struct bio_vec *pieces, u32 max, u32 *bytes);
void squall_get_page(struct page *page);
void squall_put_page(struct page *page);
void *squall_frag_alloc(u32 size, struct page **page, u32 *offset);

/* Memory. */
int squall_memory_start(void);
void squall_memory_stop(void);
void squall_memory_add(s64 pages);
bool squall_memory_reaches(s64 pages);
s64 squall_memory_sum(void);
u64 squall_memory_total(void);
bool squall_tcp_pressed(void);
s64 squall_tcp_pages(void);

/* The access log. */
int squall_log_register(void);
void squall_log_unregister(void);
bool squall_log_followed(void);
u64 squall_log_next(void);
struct sk_buff *squall_log_message(u8 cmd, u32 room);
bool squall_log_put(struct sk_buff *skb, u16 type, const void *data, u32 len);
void squall_log_free(struct sk_buff *skb);
bool squall_log_send(struct sk_buff *skb);
u64 squall_log_time(void);
u64 squall_log_clock(void);
u32 squall_log_cpu(void);

int squall_base64_encode(const u8 *src, int len, char *dst);

#endif
