# A Chroma server laid out as in its official image: the program, /config.yaml, and the data in /data. Its container has
# neither sqlite3 nor docker; Python is there to load what the wheel of chromadb brings, and for Ansible.
FROM embedded-db-backup-target

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends dumb-init \
    && rm -rf /var/lib/apt/lists/*
COPY chroma /usr/local/bin/chroma
COPY chromadb_rust_bindings /usr/local/lib/chroma/chromadb_rust_bindings
RUN mkdir /data && echo 'persist_path: "/data"' >/config.yaml

ENV PYTHONDONTWRITEBYTECODE=1
STOPSIGNAL SIGTERM
EXPOSE 8000
ENTRYPOINT ["dumb-init", "--", "chroma"]
CMD ["run", "/config.yaml"]
