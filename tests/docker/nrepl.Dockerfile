# A host with a Java, Datalevin and nREPL, for an application that systemd starts.
FROM embedded-db-backup-target

COPY java-runtime /opt/java
COPY datalevin.jar nrepl.jar /opt/application/
