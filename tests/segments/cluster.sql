--
-- PostgreSQL database cluster dump
--

SET default_transaction_read_only = off;

CREATE ROLE reader;

--
-- Database "shop" dump
--

--
-- PostgreSQL database dump
--

SET statement_timeout = 0;

CREATE DATABASE shop WITH TEMPLATE = template0;

\connect shop

CREATE TABLE public.orders (
    id bigint
);

COPY public.orders (id) FROM stdin;
1
2
\.


--
-- PostgreSQL database dump complete
--

--
-- Database "wiki" dump
--

--
-- PostgreSQL database dump
--

\connect -reuse-previous=on "dbname='wiki'"

CREATE TABLE public.orders (
    id bigint
);

COPY public.orders (id) FROM stdin;
1
\.


--
-- PostgreSQL database dump complete
--

--
-- PostgreSQL database cluster dump complete
--
