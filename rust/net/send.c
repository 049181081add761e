// SPDX-License-Identifier: GPL-2.0
/*
 * Hands pieces of pages to TCP, each as one fragment.
 *
 * MSG_SPLICE_PAGES would split a piece into pages of 4 KiB.  Each would be a
 * fragment with a reference of its own, which the receiver copies and frees
 * one by one.  But a process's data lies in pages of 32 KiB, and a network
 * card's in pages that follow each other.  So the fragments are made here:
 * with MSG_ZEROCOPY, TCP calls msg->sg_from_iter for them.  io_uring uses the
 * same way.
 *
 * Softirq, the socket's spinlock held, not owned by a user.
 */
#include <linux/net.h>
#include <linux/skbuff.h>
#include <linux/uio.h>
#include <net/hotdata.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "bindings.h"

struct squall_send {
	struct msghdr msg;
	struct ubuf_info uarg;
	struct sock *sk;
};

/*
 * Nobody is to be told when the pages have been sent: each fragment has a
 * reference.  Without SKBFL_ZEROCOPY_ENABLE the skb is like any other to the
 * rest of the kernel, and its pointer to the ubuf_info, which is gone when
 * tcp_sendmsg_locked() returns, is not followed: see skb_zcopy().
 */
static const struct ubuf_info_ops no_ops;

/* Appends the next @length bytes of @from to @skb. */
static int append_pieces(struct sk_buff *skb, struct iov_iter *from,
			 size_t length)
{
	struct squall_send *send = container_of(from, struct squall_send,
						msg.msg_iter);
	size_t max_frags = READ_ONCE(net_hotdata.sysctl_max_skb_frags);
	size_t done = 0;
	int err = 0;

	/*
	 * TCP takes this for memory of a process, which it does not count.  It
	 * counts like all else; squall_sk_send() has seen that there is some.
	 */
	if (skb_zcopy_pure(skb)) {
		skb_shinfo(skb)->flags &= ~SKBFL_PURE_ZEROCOPY;
		(void)sk_wmem_schedule(send->sk, length);
	}
	while (done < length && from->nr_segs) {
		const struct bio_vec *piece = from->bvec;
		size_t now = min(length - done,
				 piece->bv_len - from->iov_offset);

		err = skb_append_pagefrags(skb, piece->bv_page,
					   piece->bv_offset + from->iov_offset,
					   now, max_frags);
		/* -EMSGSIZE: TCP goes on with another skb. */
		if (err)
			break;
		done += now;
		from->iov_offset += now;
		if (from->iov_offset == piece->bv_len) {
			from->iov_offset = 0;
			from->bvec++;
			from->nr_segs--;
		}
	}
	from->count -= done;
	skb_len_add(skb, done);
	return err;
}

/*
 * Hands @count pieces, @bytes > 0 in all, to TCP; @more: others follow at once.
 * Returns how many bytes it took, or an errno.  At -EAGAIN TCP says when it has
 * room, if it holds anything.  Each piece is a range of a page, compound or
 * not, that is alive and may be sent: see sendpage_ok().
 */
int squall_sk_send(struct sock *sk, const struct bio_vec *pieces, u32 count,
		   u32 bytes, bool more)
{
	/* Zeroing all of it would take longer than the rest of this. */
	struct squall_send send __uninitialized;

	if (!sk_stream_memory_free(sk) || !sk_wmem_schedule(sk, bytes)) {
		set_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
		return -EAGAIN;
	}
	send.sk = sk;
	send.uarg.ops = &no_ops;
	refcount_set(&send.uarg.refcnt, 1);
	/* Others may have the pages, too. */
	send.uarg.flags = SKBFL_SHARED_FRAG;
	send.msg.msg_name = NULL;
	send.msg.msg_namelen = 0;
	send.msg.msg_control = NULL;
	send.msg.msg_controllen = 0;
	send.msg.msg_ubuf = &send.uarg;
	send.msg.sg_from_iter = append_pieces;
	send.msg.msg_inq = 0;
	send.msg.msg_control_is_user = false;
	send.msg.msg_get_inq = false;
	send.msg.msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_ZEROCOPY |
			     (more ? MSG_MORE : 0);
	iov_iter_bvec(&send.msg.msg_iter, ITER_SOURCE, pieces, count, bytes);
	return tcp_sendmsg_locked(sk, &send.msg, bytes);
}
