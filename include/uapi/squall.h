/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The access log of Squall as programs follow it: messages of the generic
 * netlink family "squall" to its multicast group "log".  Documentation/log.md
 * describes them.  Numbers are never given another meaning; a reader skips the
 * messages and attributes that it does not know.
 */
#ifndef _UAPI_SQUALL_H
#define _UAPI_SQUALL_H

#define SQUALL_GENL_NAME	"squall"
#define SQUALL_GENL_VERSION	1
#define SQUALL_GENL_GROUP_LOG	"log"

/* Messages. */
enum {
	SQUALL_CMD_UNSPEC,
	SQUALL_CMD_REQUEST,	/* a request has come to its end */
	SQUALL_CMD_TUNNEL,	/* a tunnel has come to its end */
};

/* Attributes.  Numbers are in the byte order of the host. */
enum {
	SQUALL_A_UNSPEC,
	SQUALL_A_CPU,		/* u32: processor that made the record */
	SQUALL_A_SEQ,		/* u64: number of the record on that processor */
	SQUALL_A_TIME,		/* u64: time of the end, ns since the epoch */
	SQUALL_A_DURATION,	/* u64: us from the complete head to the end */
	SQUALL_A_CLIENT_ADDR,	/* 4 or 16 bytes: the client's address */
	SQUALL_A_CLIENT_PORT,	/* u16: the client's port */
	SQUALL_A_LISTENER,	/* text: name of the listener */
	SQUALL_A_ROUTE,		/* text: name of the route, if one was chosen */
	SQUALL_A_SERVER_ADDR,	/* 4 or 16 bytes: the server, if one was asked */
	SQUALL_A_SERVER_PORT,	/* u16: the server's port */
	SQUALL_A_METHOD,	/* bytes: the method, if it was read */
	SQUALL_A_TARGET,	/* bytes: the request target, if it was read */
	SQUALL_A_HOST,		/* bytes: the field Host, if there is one */
	SQUALL_A_TRUNCATED,	/* flag: one of the last three is cut off */
	SQUALL_A_STATUS,	/* u16: status of the response, 0: none */
	SQUALL_A_BYTES_IN,	/* u64: bytes of content from the client */
	SQUALL_A_BYTES_OUT,	/* u64: bytes of content to the client */
	SQUALL_A_FRAMES_IN,	/* u64: frames from the client, if counted */
	SQUALL_A_FRAMES_OUT,	/* u64: frames to the client, if counted */
	SQUALL_A_CLOSED_BY,	/* u8: SQUALL_BY_... */
	SQUALL_A_REASON,	/* u8: SQUALL_WHY_... */
	__SQUALL_A_MAX,
	SQUALL_A_MAX = __SQUALL_A_MAX - 1,
};

/* Who brought it to its end. */
enum {
	SQUALL_BY_NOBODY,	/* the response was handed on to its end */
	SQUALL_BY_CLIENT,
	SQUALL_BY_SERVER,
	SQUALL_BY_PROXY,
};

/* Why it came to its end. */
enum {
	SQUALL_WHY_DONE,	/* the response was handed on to its end */
	SQUALL_WHY_FIN,		/* closed in an orderly way */
	SQUALL_WHY_RESET,	/* reset, or vanished */
	SQUALL_WHY_CLIENT_IDLE,	/* the client was silent for too long */
	SQUALL_WHY_SERVER_IDLE,	/* the server was silent for too long */
	SQUALL_WHY_IDLE,	/* both were silent for too long */
	SQUALL_WHY_LIFETIME,	/* it had lasted for as long as it may */
	SQUALL_WHY_STALLED,	/* the receiver took nothing for too long */
	SQUALL_WHY_DRAINED,	/* drained: disabled or removed */
	SQUALL_WHY_RATE,	/* more, or less, than the allowed rate */
	SQUALL_WHY_MEMORY,	/* memory was not to be had */
	SQUALL_WHY_FRAMES,	/* a frame broke the rules */
	SQUALL_WHY_UNLOADED,	/* the module was unloaded */
	SQUALL_WHY_PROTOCOL,	/* a message broke a rule or a limit */
	SQUALL_WHY_TIMEOUT,	/* it took too long */
	SQUALL_WHY_UNAVAILABLE,	/* no connection to a server was to be had */
};

#endif /* _UAPI_SQUALL_H */
